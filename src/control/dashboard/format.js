// Figures as people read them, each with its unit. Pure.

/** Three digits that matter; what is not zero never looks like it. */
const digits = (value) => {
  if (value === 0 || Math.abs(value) >= 99.95) return value.toFixed(0);
  if (Math.abs(value) >= 9.995) return value.toFixed(1);
  return Math.abs(value) >= 0.01 ? value.toFixed(2) : value.toExponential(0);
};

const scaled = (value, units, step) => {
  let at = 0;
  while (at + 1 < units.length && Math.abs(value) >= 999.5) {
    value /= step;
    at += 1;
  }
  return `${digits(value)} ${units[at]}`;
};

/** A whole number, in groups of three. */
export const count = (value) => Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, '\u202f');

/** A count in short: 12, 12.3 k. */
export const short = (value) => (
  value < 999.5 ? String(Math.round(value)) : scaled(value, ['', 'k', 'M', 'G', 'T'], 1000));

export const bits = (value) => scaled(value, ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s'], 1000);

export const frames = (value) => `${short(value)} frames/s`;

export const bytes = (value) => scaled(value, ['B', 'kB', 'MB', 'GB', 'TB'], 1000);

/** Of nanoseconds. */
export const time = (ns) => scaled(ns, ['ns', 'µs', 'ms', 's'], 1000);

export const percent = (value) => `${digits(value)} %`;

/** Whole seconds, as an age. */
export const age = (seconds) => {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h`;
};

const two = (value) => String(value).padStart(2, '0');

/** Of a Date: 23:59:59, here. */
export const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
