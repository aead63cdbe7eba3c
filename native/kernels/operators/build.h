/*
 * One build of all operators but convolutions: the same readable C for every instruction set, which the compiler makes the most of. So
 * all of them compute the same integers. KN_OPERATORS is the name of the build, KN_OPERATORS_FEATURES what it needs.
 */
#include "elementwise.h"
#include "pool.h"
#include "move.h"
#include "edge.h"

const kn_operators KN_OPERATORS = {
    .features = KN_OPERATORS_FEATURES,
    .add = add,
    .multiply = multiply,
    .table = table,
    .max_pool = max_pool,
    .average_pool = average_pool,
    .sum_pool = sum_pool,
    .copy = copy,
    .resize = resize,
    .quantize = quantize,
    .dequantize_codes = dequantize_codes,
    .dequantize_accumulators = dequantize_accumulators,
    .softmax = softmax,
    .sigmoid = sigmoid,
};
