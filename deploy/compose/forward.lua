-- Forwards every series of images to the node once nothing new comes, but not what the node sent itself.
local images = {CT = true, MR = true, US = true}

function OnStableSeries(series, tags, metadata)
  if images[tags['Modality']] then
    RestApiPost('/modalities/NODE/store',
      DumpJson({Resources = {series}, Asynchronous = true, Permissive = true}, true))
  end
end
