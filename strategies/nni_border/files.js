// Loaded into NNI's manager by NODE_OPTIONS. The manager opens files for a trial's output and errors
// and never closes them, two for each trial that it has run. Whoever was started with them has them.
'use strict';
const childProcess = require('child_process');
const fs = require('fs');
const spawn = childProcess.spawn;
childProcess.spawn = function (...args) {
  const child = spawn.apply(this, args);
  const streams = args.flatMap((each) => (each && each.stdio) || []);
  streams.filter((each) => each instanceof fs.WriteStream).forEach((each) => each.destroy());
  return child;
};
