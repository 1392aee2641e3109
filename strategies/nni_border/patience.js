// Loaded into NNI's manager by NODE_OPTIONS. The manager gives a tuner ten seconds to connect, which
// its imports alone can take on a busy machine, and then the experiment fails.
'use strict';
const before = global.setTimeout;
const NNI_MS = 10000;
const OURS_MS = 120000;
global.setTimeout = function (call, delay, ...args) {
  return before(call, delay === NNI_MS ? OURS_MS : delay, ...args);
};
Object.defineProperties(global.setTimeout, Object.getOwnPropertyDescriptors(before));
