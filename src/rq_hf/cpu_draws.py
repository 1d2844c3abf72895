# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Drawing of codes by top-k and nucleus on a CPU, for compiled sampling and compiled training: one call instead of a
dozen.

Written with PyTorch's operators, as `sampling_steps.filter_logits` is, a sixth of the time of both goes into the
search of the k largest logits, sorted. Here bins find the two thresholds, so that nothing is sorted but one bin.
"""

import threading
import warnings

import torch

DRAWS_SOURCE = r"""
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#ifdef __GNUC__
#pragma GCC optimize("tree-loop-vectorize")
#endif

namespace {

constexpr int BINS = 256;

struct Row {  // of one thread, used again for each of its rows
  std::vector<float> scaled, kept, binned;
  std::vector<double> weights;
  std::vector<int32_t> bins, indices;
};

// The bits of negative floats the other way round, and back: those of larger floats are then larger integers.
inline int32_t flipped(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

inline int32_t ordered(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return flipped(bits);
}

inline float from_ordered(int32_t key) {
  const int32_t bits = flipped(key);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The bin of each value, 0 for the largest ones; a smaller value is never in an earlier bin.
void into_bins(const float* values, int64_t count, float largest, float smallest, int32_t* bins) {
  const float scale = (BINS - 1) / std::max(largest - smallest, FLT_MIN);
  for (int64_t i = 0; i < count; ++i) {
    const float bin = (largest - values[i]) * scale;
    bins[i] = static_cast<int32_t>(bin < BINS - 1 ? bin : BINS - 1);
  }
}

// The `top_k`-th largest value; `row.indices` are then those of the values that are as large, `row.kept` the values.
float keep_largest(Row& row, int64_t size, int64_t top_k, float largest, float smallest) {
  into_bins(row.scaled.data(), size, largest, smallest, row.bins.data());
  int32_t counts[2][BINS] = {};  // two, as adding to one place twice in a row waits
  for (int64_t i = 0; i + 1 < size; i += 2) {
    ++counts[0][row.bins[i]];
    ++counts[1][row.bins[i + 1]];
  }
  if (size % 2) ++counts[0][row.bins[size - 1]];
  int32_t last = 0;
  int64_t before = 0;  // values in earlier bins than that of the `top_k`-th
  while (before + counts[0][last] + counts[1][last] < top_k) {
    before += counts[0][last] + counts[1][last];
    ++last;
  }
  int64_t found = 0;
  for (int64_t i = 0; i < size; ++i) {
    row.indices[found] = i;
    found += row.bins[i] <= last;
  }
  row.binned.clear();
  for (int64_t i = 0; i < found; ++i)
    if (row.bins[row.indices[i]] == last) row.binned.push_back(row.scaled[row.indices[i]]);
  const auto nth = row.binned.begin() + (top_k - before - 1);
  std::nth_element(row.binned.begin(), nth, row.binned.end(), std::greater<float>());
  const float threshold = *nth;
  int64_t count = 0;
  for (int64_t i = 0; i < found; ++i) {
    const int32_t index = row.indices[i];
    row.indices[count] = index;
    row.kept[count] = row.scaled[index];
    count += row.scaled[index] >= threshold;
  }
  row.indices.resize(count);
  return threshold;
}

// The smallest of the largest kept values that have `mass` together.
float nucleus_threshold(Row& row, int64_t count, double mass, float largest, float smallest) {
  into_bins(row.kept.data(), count, largest, smallest, row.bins.data());
  double masses[BINS] = {};
  for (int64_t i = 0; i < count; ++i) masses[row.bins[i]] += row.weights[i];
  int32_t last = 0;
  double before = 0;
  while (last < BINS - 1 && before + masses[last] < mass) before += masses[last++];
  std::vector<std::pair<float, double>> binned;
  for (int64_t i = 0; i < count; ++i)
    if (row.bins[i] == last) binned.emplace_back(row.kept[i], row.weights[i]);
  std::sort(binned.begin(), binned.end(), std::greater<>());
  float threshold = smallest;
  for (const auto& [value, weight] : binned) {
    if (before >= mass) break;
    threshold = value;
    before += weight;
  }
  return threshold;
}

// A code by the inverse of the distribution function, as `inverse_cdf_sample` of what `filter_logits` leaves.
int64_t draw(const float* logits, int64_t size, float temperature, int64_t top_k, double top_p, float uniform,
             Row& row) {
  row.scaled.resize(size), row.kept.resize(size), row.weights.resize(size);
  row.bins.resize(size), row.indices.resize(size);
  int32_t highest = INT32_MIN, lowest = INT32_MAX;
  for (int64_t i = 0; i < size; ++i) {
    const float scaled = logits[i] / temperature;
    row.scaled[i] = scaled;
    highest = std::max(highest, ordered(scaled));
    lowest = std::min(lowest, ordered(scaled));
  }
  if (highest > ordered(FLT_MAX) || lowest < ordered(-FLT_MAX)) {  // sampling refuses these logits
    int64_t i = 0;
    while (ordered(row.scaled[i]) != highest) ++i;
    return i;
  }
  const float largest = from_ordered(highest);
  float smallest = from_ordered(lowest);
  if (top_k < size) {
    smallest = keep_largest(row, size, top_k, largest, smallest);
  } else {
    for (int64_t i = 0; i < size; ++i) row.indices[i] = i;
    std::copy(row.scaled.begin(), row.scaled.end(), row.kept.begin());
  }
  const int64_t count = row.indices.size();
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    row.weights[i] = std::exp(row.kept[i] - largest);
    total += row.weights[i];
  }
  const float threshold = top_p < 1 ? nucleus_threshold(row, count, top_p * total, largest, smallest) : smallest;
  total = 0;
  for (int64_t i = 0; i < count; ++i) total += row.kept[i] >= threshold ? row.weights[i] : 0;
  const double passed = uniform * total;
  double sum = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (row.kept[i] < threshold) continue;
    sum += row.weights[i];
    last = row.indices[i];
    if (sum > passed) break;
  }
  return last;
}

at::Tensor draw_codes(const at::Tensor& logits, const at::Tensor& uniforms, double temperature, int64_t top_k,
                      double top_p) {
  const int64_t rows = logits.size(0), size = logits.size(1);
  const at::Tensor values = logits.contiguous(), draws = uniforms.contiguous();
  at::Tensor codes = at::empty({rows}, logits.options().dtype(at::kLong));
  const float *value = values.const_data_ptr<float>(), *drawn = draws.const_data_ptr<float>();
  int64_t* code = codes.mutable_data_ptr<int64_t>();
#pragma omp parallel if (rows > 1 && rows * size > 4096)
  {
    Row row;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows; ++i)
      code[i] = draw(value + i * size, size, temperature, top_k, top_p, drawn[i], row);
  }
  return codes;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(rq_hf, library) {
  library.def("draw_codes(Tensor logits, Tensor uniforms, float temperature, int top_k, float top_p) -> Tensor");
  library.impl("draw_codes", c10::DispatchKey::CPU, TORCH_FN(draw_codes));
}
"""

_compiling_draws = threading.Lock()
_draws_failed = False


def has_compiled_draws() -> bool:
    """Whether `torch.ops.rq_hf.draw_codes` is there."""
    return hasattr(torch.ops.rq_hf, "draw_codes")


def compile_draws() -> None:
    """Makes `torch.ops.rq_hf.draw_codes`, by the compiler and in the cache of torch.compile: some seconds, once.

    It takes logits `(B, K)` and uniforms `(B,)` in [0, 1), both fp32, temperature, top-k (K keeps all) and top-p (1
    keeps all), and gives codes `(B,)`. Where it cannot be made, a warning says why, and sampling does without.
    """
    global _draws_failed
    with _compiling_draws:
        if has_compiled_draws() or _draws_failed:
            return
        try:
            from torch._inductor.codecache import CppCodeCache  # here, as it takes a second

            CppCodeCache.load(DRAWS_SOURCE)
            torch.library.register_fake("rq_hf::draw_codes", _like_drawn_codes)
        except Exception as error:  # a private part of torch, and a compiler that may fail in any way
            _draws_failed = True
            warnings.warn(f"Codes are drawn by PyTorch's operators, which takes longer: {error}", stacklevel=2)


def _like_drawn_codes(logits: torch.Tensor, *_) -> torch.Tensor:
    return logits.new_empty(logits.shape[:1], dtype=torch.long)
