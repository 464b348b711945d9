// What cornerstone's adapters, which OHIF reads with, make of a segmentation and a report; no browser needed.
// Arguments: a folder of source images, then the objects. Prints one JSON object for each object.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import dcmjs from 'dcmjs';
import { cache, metaData } from '@cornerstonejs/core';
import { adaptersSEG, adaptersSR } from '@cornerstonejs/adapters';

const { DicomMessage, DicomMetaDictionary } = dcmjs.data;
dcmjs.log.setLevel('error');

function bytes(path) {
  const content = readFileSync(path);
  return content.buffer.slice(content.byteOffset, content.byteOffset + content.byteLength);
}

function read(path) {
  const file = DicomMessage.readFile(bytes(path));
  const dataset = DicomMetaDictionary.naturalizeDataset(file.dict);
  dataset._meta = DicomMetaDictionary.namifyDataset(file.meta);
  return dataset;
}

const instances = new Map();

function provide(type, imageId) {
  const image = instances.get(imageId);
  if (!image) return undefined;
  const [rowSpacing, columnSpacing] = image.PixelSpacing.map(Number);
  const cosines = image.ImageOrientationPatient.map(Number);
  const answers = {
    instance: image,
    generalImageModule: { sopInstanceUID: image.SOPInstanceUID },
    generalSeriesModule: { seriesInstanceUID: image.SeriesInstanceUID, modality: image.Modality },
    sopCommonModule: { sopInstanceUID: image.SOPInstanceUID, sopClassUID: image.SOPClassUID },
    imagePixelModule: { rows: image.Rows, columns: image.Columns, bitsAllocated: image.BitsAllocated },
    imagePlaneModule: {
      frameOfReferenceUID: image.FrameOfReferenceUID,
      rows: image.Rows,
      columns: image.Columns,
      imageOrientationPatient: cosines,
      rowCosines: cosines.slice(0, 3),
      columnCosines: cosines.slice(3),
      imagePositionPatient: image.ImagePositionPatient.map(Number),
      pixelSpacing: [rowSpacing, columnSpacing],
      rowPixelSpacing: rowSpacing,
      columnPixelSpacing: columnSpacing,
    },
  };
  return answers[type];
}

async function segmentation(path, imageIds) {
  const found = await adaptersSEG.Cornerstone3D.Segmentation.createFromDICOMSegBuffer(
    imageIds, bytes(path), { metadataProvider: { get: provide, addRaw() {} }, tolerance: 1e-3 });
  const voxels = {};
  for (const image of found.labelMapImages.flat()) {
    const uid = instances.get(image.referencedImageId).SOPInstanceUID;
    for (const value of image.voxelManager.getScalarData()) {
      if (value) {
        voxels[value] ??= {};
        voxels[value][uid] = (voxels[value][uid] ?? 0) + 1;
      }
    }
  }
  const labels = found.segMetadata.data.filter(Boolean).map((segment) => segment.SegmentLabel);
  return { voxels, labels, overlapping: found.overlappingSegments };
}

function report(dataset) {
  const ids = Object.fromEntries([...instances].map(([id, image]) => [`${image.SOPInstanceUID}:1`, id]));
  const found = adaptersSR.Cornerstone3D.MeasurementReport.generateToolState(dataset, ids, { get: provide });
  const tools = Object.entries(found).flatMap(([tool, measurements]) => measurements.map((measurement) => {
    const { cachedStats, handles } = measurement.annotation.data;
    const [{ length, width, unit }] = Object.values(cachedStats);
    return { tool, uid: measurement.TrackingUniqueIdentifier, length, width, unit, points: handles.points };
  }));
  return { tools };
}

const [folder, ...objects] = process.argv.slice(2);
for (const name of readdirSync(folder).sort()) instances.set(`dicom:${name}`, read(join(folder, name)));
metaData.addProvider(provide, 10000);
cache.setMaxCacheSize(1e9);
for (const path of objects) {
  const dataset = read(path);
  const said = dataset.Modality === 'SEG' ? await segmentation(path, [...instances.keys()]) : report(dataset);
  console.log(JSON.stringify({ path, ...said }));
}
