/**
 * Published measurements of ResNet-18 (Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", ICML 2021, and the data published
 * with it): Hessian traces, squared weight errors at 8 and 4 bits, sizes, MACs and latencies on a T4, for the 19 operators whose
 * precision is chosen, and the nine configurations published as optimal.
 */
import type { Problem } from '../../../../agent/core/plan/problem.js';

const trace = [
  0.06857826, 0.03162379, 0.03298575, 0.01205663, 0.02222431, 0.00596336, 0.06931772, 0.00807129, 0.00372905,
  0.00530698, 0.00209011, 0.00737569, 0.00210454, 0.00151197, 0.00158041, 0.00078146, 0.00451841, 0.00098745,
  0.00072944,
];
const squaredError8 = [
  0.0235, 0.0125, 0.0102, 0.0082, 0.0145, 0.0344, 0.0023, 0.0287, 0.0148, 0.0333, 0.0682, 0.0027, 0.0448, 0.0336,
  0.0576, 0.113, 0.0102, 0.0947, 0.0532,
];
const squaredError4 = [
  6.743, 3.9691, 3.3281, 2.6796, 4.7277, 10.5966, 0.6827, 9.0942, 4.8857, 10.7599, 21.7546, 0.8603, 14.5324, 10.9651,
  18.7706, 36.4044, 3.1572, 29.6994, 17.4016,
];
const parameters = [
  36864, 36864, 36864, 36864, 73728, 147456, 8192, 147456, 147456, 294912, 589824, 32768, 589824, 589824, 1179648,
  2359296, 131072, 2359296, 2359296,
];
const megaMacs = [
  115.605504, 115.605504, 115.605504, 115.605504, 57.802752, 115.605504, 6.422528, 115.605504, 115.605504, 57.802752,
  115.605504, 6.422528, 115.605504, 115.605504, 57.802752, 115.605504, 6.422528, 115.605504, 115.605504,
];
const milliseconds4 = [
  0.21094404, 0.21092674, 0.21104113, 0.21086851, 0.13642465, 0.19167506, 0.02532183, 0.19148203, 0.19142914,
  0.11395316, 0.20556011, 0.01917474, 0.20566918, 0.20566509, 0.13185102, 0.22287786, 0.01790088, 0.22304611,
  0.22286099,
];
const milliseconds8 = [
  0.36189111, 0.36211718, 0.31141909, 0.30454471, 0.19184896, 0.38948934, 0.0334169, 0.38904905, 0.3892859, 0.19134735,
  0.34307431, 0.02802354, 0.34313329, 0.34310756, 0.21117103, 0.37376585, 0.02896843, 0.37398187, 0.37405185,
];

/** Choice 0 is 4 bits, choice 1 is 8. */
export const hawqProblem: Problem = {
  operators: trace.map((hessian, index) => ({
    name: `convolution ${index}`,
    choices: [4, 8].map((bits) => ({
      precision: `W${bits}A${bits}`,
      format: 'integer',
      costs: {
        sensitivity: hessian * (bits === 4 ? squaredError4 : squaredError8)[index]!,
        latency: (bits === 4 ? milliseconds4 : milliseconds8)[index]!,
        bytes: (parameters[index]! * bits) / 8,
        energy: null,
        bitOps: megaMacs[index]! * bits * bits,
      },
    })),
  })),
  edges: [],
  ties: [
    [4, 6],
    [9, 11],
    [14, 16],
  ],
  fixed: { latency: 0, bytes: 0, ramBytes: 0 },
};

/** Bits of the operators in order, by constrained metric and the fraction of the way from all 4 bits to all 8 bits. */
export const hawqConfigurations = [
  { metric: 'bytes', fraction: 0.75, bits: '8888888888888488884', sensitivity: 0.0334 },
  { metric: 'bytes', fraction: 0.5, bits: '8888888888888884844', sensitivity: 0.0745 },
  { metric: 'bytes', fraction: 0.25, bits: '8888888888888844444', sensitivity: 0.1183 },
  { metric: 'bitOps', fraction: 0.75, bits: '8888888848888484884', sensitivity: 0.08 },
  { metric: 'bitOps', fraction: 0.5, bits: '8884888848884444444', sensitivity: 0.2157 },
  { metric: 'bitOps', fraction: 0.25, bits: '8884848444444444444', sensitivity: 0.4604 },
  { metric: 'latency', fraction: 0.75, bits: '8888888848888484884', sensitivity: 0.08 },
  { metric: 'latency', fraction: 0.5, bits: '8888848848884484844', sensitivity: 0.2027 },
  { metric: 'latency', fraction: 0.25, bits: '8884848444444444444', sensitivity: 0.4604 },
] as const;
