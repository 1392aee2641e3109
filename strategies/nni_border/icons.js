// Loaded into NNI's manager by NODE_OPTIONS. The web UI asks a server of its maker's for icons and
// fonts, and without the internet shows boxes. Its components look at FabricConfig for where these
// are; here the page says so, and finds the icons beside this file: see icons.md.
'use strict';
const fs = require('fs');
const path = require('path');
const { Readable } = require('stream');

const UI = path.join(path.dirname(process.argv[1] || ''), 'static');
const PAGE = path.join(UI, 'index.html');
const SCRIPT = '<script>FabricConfig={fontBaseUrl:"",iconBaseUrl:"./sedona-nni-icons/"}</script>';
const ICONS = path.join(UI, 'sedona-nni-icons') + path.sep; // is not there; all fonts are the one
const FONT = path.join(__dirname, 'icons.woff');

const { stat, createReadStream } = fs;
const found = (file) => (String(file).startsWith(ICONS) ? FONT : file);

fs.stat = function (file, ...rest) {
  const answer = rest.pop();
  stat(found(file), ...rest, (error, stats) => {
    if (stats && file === PAGE) {
      stats.size += SCRIPT.length;
    }
    answer(error, stats);
  });
};

fs.createReadStream = function (file, options) {
  if (file !== PAGE) {
    return createReadStream(found(file), options);
  }
  const page = Buffer.from(fs.readFileSync(PAGE, 'utf8').replace('<head>', `<head>${SCRIPT}`));
  return Readable.from([page.subarray(options.start, options.end + 1)]);
};
