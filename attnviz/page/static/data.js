"use strict";

// What the page holds: the JSON of #about, and blocks of arrays that are inflated when first looked at.

const by = (id) => document.getElementById(id);
const about = JSON.parse(by("about").textContent);
const ARRAYS = { u8: Uint8Array, i16: Int16Array, i32: Int32Array, f32: Float32Array };

/** Bytes of base64 text; by the browser's own decoder where it has one. */
function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Bytes of a block. Its text is let go of: the arrays take its place in memory. */
async function inflated(name) {
  const packed = new Blob([bytesOf(by(name).textContent.trim())]);
  by(name).remove();
  return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** The named arrays of a block. */
function arraysOf(bytes, parts) {
  const arrays = {};
  for (const [name, { type, shape, offset }] of Object.entries(parts)) {
    arrays[name] = new ARRAYS[type](bytes, offset, shape.reduce((product, n) => product * n, 1));
  }
  return arrays;
}
