"use strict";
// COCO's packed run lengths: runs of zeros and ones in turn, down the columns, one after the other. A number is written in
// digits of five bits, the least first, each as a character from "0" on, whose sixth bit says that more follow; from the
// third run on it is the difference to the run two before.
function runsOf(counts) {
  const runs = [];
  for (let place = 0; place < counts.length;) {
    let value = 0;
    let shift = 0;
    let digit;
    do {
      digit = counts.charCodeAt(place++) - 48;
      value |= (digit & 31) << shift;
      shift += 5;
    } while (digit & 32);
    if (digit & 16) value |= -1 << shift; // a negative difference
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

// Tints the pixels of `image` (ImageData) that lie in a mask, whatever the sizes of both are.
function tint(image, mask, [red, green, blue], share) {
  const [height, width] = mask.size;
  const across = image.width / width;
  const down = image.height / height;
  const fill = (column, from, to) => {
    const right = Math.ceil((column + 1) * across);
    const bottom = Math.min(image.height, Math.ceil(to * down));
    for (let x = Math.ceil(column * across); x < right && x < image.width; x++) {
      for (let y = Math.ceil(from * down); y < bottom; y++) {
        const at = 4 * (y * image.width + x);
        image.data[at] += (red - image.data[at]) * share;
        image.data[at + 1] += (green - image.data[at + 1]) * share;
        image.data[at + 2] += (blue - image.data[at + 2]) * share;
      }
    }
  };
  let start = 0;
  runsOf(mask.counts).forEach((length, number) => {
    const end = start + length;
    if (number % 2) {
      for (let at = start; at < end;) {
        const column = Math.floor(at / height);
        const to = Math.min(end, (column + 1) * height);
        fill(column, at - column * height, to - column * height);
        at = to;
      }
    }
    start = end;
  });
}
