// Walks over operands, and the rows of scratch that serve them.
#include "emu/lanes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "emu/clones.h"

namespace trn::emu {
namespace {

TRN_CLONES void flush_denormals(float* values, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    values[i] = std::fabs(values[i]) < 0x1p-126F ? 0.0F * values[i] : values[i];
  }
}

// The largest number of a floating type, in fp32.
float largest(Dtype dtype) {
  if (!target::is_small_float(dtype)) {
    return std::numeric_limits<float>::max();
  }
  // Of the codes that are no number, the first is one past the largest.
  const std::int64_t num_codes = std::int64_t{1} << (8 * target::itemsize(dtype) - 1);
  float value = 0;
  for (std::int64_t code = num_codes - 1; code >= 0; --code) {
    load(dtype, reinterpret_cast<const std::byte*>(&code), 0, &value, 1);
    if (std::isfinite(value)) {
      break;
    }
  }
  return value;
}

TRN_CLONES void saturate(float* values, float limit, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float value = values[i];
    values[i] = value > limit ? limit : (value < -limit ? -limit : value);
  }
}

template <class T>
T* at_least(std::vector<T>& row, std::int64_t n) {
  if (row.size() < static_cast<std::size_t>(n)) {
    row.resize(static_cast<std::size_t>(n));
  }
  return row.data();
}

template <class T>
void read(const View& view, T* out) {
  Walk walk(view);
  walk.take(view.elements(), [&](const std::byte* from, std::int64_t stride, std::int64_t n) {
    load(view.dtype, from, stride, out, n);
    out += n;
  });
}

}  // namespace

Walk::Walk(const View& view) : at_(view.data), dtype_(view.dtype) {
  const std::int64_t size = target::itemsize(view.dtype);
  auto add = [&](std::int64_t elements, std::int64_t stride) {
    if (elements == 1) {
      return;
    }
    if (rank_ > 0 && stride == dims_[rank_ - 1].size * dims_[rank_ - 1].stride) {
      dims_[rank_ - 1].size *= elements;
      return;
    }
    dims_[rank_++] = {elements, stride, 0};
  };
  for (std::size_t d = view.free.size(); d-- > 0;) {
    add(view.free[d].size, view.free[d].stride * size);
  }
  add(view.partitions, view.partition_bytes);
  if (rank_ == 0) {
    dims_[rank_++] = {1, size, 0};
  }
}

void Walk::carry() {
  for (std::size_t d = 0; d < rank_; ++d) {
    if (dims_[d].at < dims_[d].size) {
      return;
    }
    at_ -= dims_[d].at * dims_[d].stride;
    dims_[d].at = 0;
    if (d + 1 < rank_) {
      at_ += dims_[d + 1].stride;
      ++dims_[d + 1].at;
    }
  }
}

Lanes::Lanes(const Numerics& numerics) : numerics_(numerics), bits_(numerics.seed) {}

void Lanes::settle(Dtype dtype, float* values, std::int64_t n) const {
  if (numerics_.flush_denormals) {
    flush_denormals(values, n);
  }
  if (numerics_.saturate_infinity) {
    saturate(values, largest(dtype), n);
  }
}

void Lanes::put(Walk& to, float* values, std::int64_t n) {
  settle(to.dtype(), values, n);
  to.take(n, [&](std::byte* at, std::int64_t stride, std::int64_t part) {
    if (numerics_.stochastic_rounding) {
      store_stochastic(to.dtype(), at, stride, values, part, bits_);
    } else {
      store(to.dtype(), at, stride, values, part);
    }
    values += part;
  });
}

void Lanes::put(Walk& to, const std::int64_t* values, std::int64_t n) {
  to.take(n, [&](std::byte* at, std::int64_t stride, std::int64_t part) {
    store(to.dtype(), at, stride, values, part);
    values += part;
  });
}

void Lanes::read_row(const View& view, std::int64_t partition, float* out) {
  read(view.only(partition), out);
}

void Lanes::read_row(const View& view, std::int64_t partition, std::int64_t* out) {
  read(view.only(partition), out);
}

void Lanes::write_row(const View& view, std::int64_t partition, float* values) {
  Walk walk(view.only(partition));
  put(walk, values, view.free_elements());
}

void Lanes::write_row(const View& view, std::int64_t partition, const std::int64_t* values) {
  Walk walk(view.only(partition));
  put(walk, values, view.free_elements());
}

const float* Lanes::dense_row(const View& view, std::int64_t partition, std::size_t which) {
  const View one = view.only(partition);
  const Walk walk(one);
  const std::int64_t n = view.free_elements();
  if (is_native<float>(walk) && walk.run() >= n) {
    return reinterpret_cast<const float*>(walk.at());
  }
  float* out = row(which, n);
  read_row(view, partition, out);
  return out;
}

void Lanes::read_scalars(const ScalarOperand& operand, std::int64_t partitions, float* out) {
  if (operand.vector != nullptr) {
    read(*operand.vector, out);
  } else {
    std::fill(out, out + partitions, static_cast<float>(operand.value));
  }
}

void Lanes::read_scalars(const ScalarOperand& operand, std::int64_t partitions, std::int64_t* out) {
  for (std::int64_t p = 0; p < partitions; ++p) {
    if (operand.vector != nullptr) {
      read_row(*operand.vector, p, out + p);
    } else {
      out[p] = static_cast<std::int64_t>(operand.value);
    }
  }
}

void Lanes::write_all(const View& view, float* values) {
  Walk walk(view);
  put(walk, values, view.elements());
}

float* Lanes::row(std::size_t which, std::int64_t n) {
  return at_least(rows_[which], n);
}

std::int64_t* Lanes::integer_row(std::size_t which, std::int64_t n) {
  return at_least(integer_rows_[which], n);
}

}  // namespace trn::emu
