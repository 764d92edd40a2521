// VectorE's instructions, one row of one partition at a time.
#include "emu/vector_engine.h"

#include <algorithm>
#include <cstring>

#include "emu/convert.h"
#include "emu/limits.h"

namespace trn::emu {

template <class Body>
void VectorEngine::rows(std::string_view where, const View& dst, std::initializer_list<const View*> sources,
                        Body body) {
  require_operand(where, core_, dst, dst);
  for (const View* source : sources) {
    require_operand(where, core_, *source, dst);
  }
  const std::int64_t n = dst.free_elements();
  result_.resize(static_cast<std::size_t>(n));
  for (std::size_t s = 0; s < sources.size(); ++s) {
    source_[s].resize(static_cast<std::size_t>(n));
  }
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    std::size_t s = 0;
    for (const View* source : sources) {
      read_row(*source, p, source_[s++].data());
    }
    body(n);
    write_row(dst, p, result_.data());
  }
}

void VectorEngine::integers(std::string_view where, const View& dst, const View& a, const View* b, Alu alu,
                            std::int64_t scalar) {
  require_operand(where, core_, dst, dst);
  require_operand(where, core_, a, dst);
  if (b != nullptr) {
    require_operand(where, core_, *b, dst);
  }
  const std::int64_t n = dst.free_elements();
  for (auto& row : integer_) {
    row.resize(static_cast<std::size_t>(n));
  }
  std::fill(integer_[1].begin(), integer_[1].end(), scalar);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    read_row(a, p, integer_[0].data());
    if (b != nullptr) {
      read_row(*b, p, integer_[1].data());
    }
    apply(alu, integer_[0].data(), integer_[1].data(), integer_[2].data(), n);
    write_row(dst, p, integer_[2].data());
  }
}

void VectorEngine::tensor_tensor(const View& dst, const View& a, const View& b, Alu alu) {
  if (is_bitwise(alu)) {
    integers("tensor_tensor", dst, a, &b, alu, 0);
    return;
  }
  rows("tensor_tensor", dst, {&a, &b},
       [&](std::int64_t n) { apply(alu, source_[0].data(), source_[1].data(), result_.data(), n); });
}

void VectorEngine::tensor_scalar(const View& dst, const View& x, Alu alu0, float scalar0, Alu alu1, float scalar1) {
  if (is_bitwise(alu0)) {
    integers("tensor_scalar", dst, x, nullptr, alu0, static_cast<std::int64_t>(scalar0));
    return;
  }
  rows("tensor_scalar", dst, {&x}, [&](std::int64_t n) {
    source_[1].assign(static_cast<std::size_t>(n), scalar0);
    apply(alu0, source_[0].data(), source_[1].data(), result_.data(), n);
    if (alu1 != Alu::none) {
      source_[1].assign(static_cast<std::size_t>(n), scalar1);
      apply(alu1, result_.data(), source_[1].data(), result_.data(), n);
    }
  });
}

void VectorEngine::scalar_tensor_tensor(const View& dst, const View& a, const View& b, Alu alu0, float scalar0,
                                        Alu alu1) {
  rows("scalar_tensor_tensor", dst, {&a, &b}, [&](std::int64_t n) {
    source_[2].assign(static_cast<std::size_t>(n), scalar0);
    apply(alu0, source_[0].data(), source_[2].data(), result_.data(), n);
    apply(alu1, result_.data(), source_[1].data(), result_.data(), n);
  });
}

void VectorEngine::tensor_copy(const View& dst, const View& src) {
  if (dst.dtype != src.dtype) {
    rows("tensor_copy", dst, {&src}, [&](std::int64_t) { result_.swap(source_[0]); });
    return;
  }
  require_operand("tensor_copy", core_, dst, dst);
  require_operand("tensor_copy", core_, src, dst);
  const auto size = static_cast<std::size_t>(target::itemsize(src.dtype));
  std::vector<std::byte> row(static_cast<std::size_t>(src.free_elements()) * size);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    std::byte* at = row.data();
    for_each(src, src.row(p), [&](const std::byte* from) {
      std::memcpy(at, from, size);
      at += size;
    });
    at = row.data();
    for_each(dst, dst.row(p), [&](std::byte* to) {
      std::memcpy(to, at, size);
      at += size;
    });
  }
}

void VectorEngine::tensor_copy_predicated(const View& dst, const View& x, const View& predicate, float scalar) {
  rows("tensor_copy_predicated", dst, {&x, &predicate}, [&](std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      result_[static_cast<std::size_t>(i)] =
          source_[1][static_cast<std::size_t>(i)] != 0 ? scalar : source_[0][static_cast<std::size_t>(i)];
    }
  });
}

void VectorEngine::select(const View& dst, const View& condition, const View& x, const View& y) {
  rows("select", dst, {&condition, &x, &y}, [&](std::int64_t n) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      result_[i] = source_[0][i] != 0 ? source_[1][i] : source_[2][i];
    }
  });
}

void VectorEngine::select(const View& dst, const View& condition, const View& x, float y) {
  rows("select", dst, {&condition, &x}, [&](std::int64_t n) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      result_[i] = source_[0][i] != 0 ? source_[1][i] : y;
    }
  });
}

void VectorEngine::reciprocal(const View& dst, const View& src) {
  rows("reciprocal", dst, {&src}, [&](std::int64_t n) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      result_[i] = 1 / source_[0][i];
    }
  });
}

void VectorEngine::memset(const View& dst, float value) {
  rows("memset", dst, {}, [&](std::int64_t) { std::fill(result_.begin(), result_.end(), value); });
}

}  // namespace trn::emu
