// Embedding bags: rows picked from a table are added up, averaged or compared by the bag that each belongs to.
#include <algorithm>

#include "aten/rules/composition.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;
enum class Mode : std::uint8_t { sum, mean, maximum };

Mode mode_of(const Composition& c) {
  const std::int64_t mode = c.args().integer("mode", 0);
  return mode == 2 ? Mode::maximum : mode == 1 ? Mode::mean : Mode::sum;
}

// Single elements are picked by 64-bit indices alone.
at::Tensor wide(Composition& c, const at::Tensor& index) {
  if (index.scalar_type() == at::kLong) {
    return index;
  }
  const at::Tensor copied = c.temporary(index.sizes(), at::kLong);
  c.copy(index, copied);
  return copied;
}

at::Tensor as_column(const at::Tensor& tensor) {
  return tensor.view({-1, 1});
}

class Bags {
 public:
  // `offsets`: where each bag begins, which may be absent where `bag` is known.
  Bags(Composition& c, const at::Tensor& offsets)
      : c_(c), index_(wide(c, c.flat(c.tensor("indices")))), padding_(c.args().integer("padding_idx", -1)) {
    if (offsets.defined()) {
      count_ = offsets.numel() - (c.args().boolean("include_last_offset", false) ? 1 : 0);
      offsets_ = wide(c, c.flat(offsets)).narrow(0, 0, count_);
    }
  }

  std::int64_t count() const { return count_; }
  std::int64_t picks() const { return index_.numel(); }
  const at::Tensor& index() const { return index_; }
  const at::Tensor& offsets() const { return offsets_; }

  // Of each index the bag: how many of the others begin at or before it.
  void assign(const at::Tensor& bag) {
    if (count_ == 1) {
      c_.fill(bag, 0);
      return;
    }
    const at::Tensor places = c_.iota(bag.sizes(), at::kLong);
    kernels::RankShape shape;
    shape.length = count_ - 1;
    shape.queries = picks();
    shape.key_dtype = shape.query_dtype = Dtype::int64;
    shape.out_dtype = dtype(bag);
    shape.alu = Alu::less;
    c_.add(shape, {{offsets_.narrow(0, 1, count_ - 1)}, {places}}, {{bag}});
  }

  // How many indices each bag has, without the padding's.
  void measure(const at::Tensor& bag, const at::Tensor& sizes) {
    if (padding_ >= 0) {
      const at::Tensor counted = c_.filled({count_, 1}, 0), one = c_.temporary({picks(), 1});
      c_.map({as_column(index_)}, {one}, [&](Expression& e, const Values& v) { e.output(0, is_real(e, v[0])); });
      c_.scatter(counted, bag, one, true);
      c_.copy(counted.view({-1}), sizes);
      return;
    }
    if (count_ > 1) {
      c_.map({offsets_.narrow(0, 1, count_ - 1), offsets_.narrow(0, 0, count_ - 1)}, {sizes.narrow(0, 0, count_ - 1)},
             [](Expression& e, const Values& v) { e.output(0, e.subtract(v[0], v[1])); });
    }
    c_.map({offsets_.narrow(0, count_ - 1, 1)}, {sizes.narrow(0, count_ - 1, 1)},
           [&](Expression& e, const Values& v) { e.output(0, e.subtract(static_cast<float>(picks()), v[0])); });
  }

  // 1 for an index that is none of the padding.
  Value is_real(Expression& e, Value index) const {
    return e.apply(Alu::not_equal, index, static_cast<float>(padding_));
  }
  bool has_padding() const { return padding_ >= 0; }

  // A row for each index, times `weights` [n] of those that are no padding.
  at::Tensor weighed(const at::Tensor& rows, const Stack& weights) const {
    const bool is_alone = std::ranges::none_of(weights, [](const at::Tensor& one) { return one.defined(); });
    if (is_alone && !has_padding() && rows.scalar_type() == at::kFloat) {
      return rows;
    }
    const at::Tensor product = c_.temporary(rows.sizes());
    Stack inputs{rows, has_padding() ? as_column(index_) : at::Tensor()};
    for (const at::Tensor& one : weights) {
      inputs.push_back(one.defined() ? as_column(one) : one);
    }
    c_.map(inputs, {product}, [&](Expression& e, const Values& v) {
      Value result = v[0];
      for (std::size_t i = 0; i < weights.size(); ++i) {
        result = weights[i].defined() ? e.multiply(v[i + 2], result) : result;
      }
      e.output(0, has_padding() ? e.where_not(e.apply(Alu::equal, v[1], static_cast<float>(padding_)), result, 0)
                                : e.copy(result));
    });
    return product;
  }

 private:
  Composition& c_;
  at::Tensor index_, offsets_;
  std::int64_t padding_, count_ = 0;
};

// ---- Forward

// Largest elements are counted: a comparison for each picked one.
void count_maxima(Composition& c, const at::Tensor& rows, const at::Tensor& out) {
  c.only_counts();
  kernels::ReductionShape shape;
  shape.rows = out.numel();
  shape.cols = ceil_div(rows.numel(), out.numel());
  shape.across_partitions = true;
  shape.alu = Alu::maximum;
  shape.inputs = {access_of(rows)};
  shape.outputs = {access_of(out)};
  c.add(shape, {}, {});
}

void forward(Composition& c) {
  const at::Tensor weight = c.tensor("weight");
  const at::Tensor &out = c.args().output(0), &to_bag = c.args().output(1), &to_sizes = c.args().output(2);
  Bags bags(c, c.tensor("offsets"));
  if (out.numel() == 0) {
    return;
  }
  if (bags.picks() == 0) {
    c.fill(out, 0);
    if (to_sizes.defined()) {
      c.fill(to_sizes, 0);
    }
    return;
  }
  if (bags.picks() > kMostExact) {
    c.only_counts();
  }
  const Mode mode = mode_of(c);
  const at::Tensor rows = c.temporary({bags.picks(), weight.size(1)}, weight.scalar_type());
  c.gather(weight, bags.index(), rows);
  const at::Tensor bag = c.temporary({bags.picks()}, at::kLong), sizes = c.temporary({bags.count()});
  bags.assign(bag);
  bags.measure(bag, sizes);
  if (mode == Mode::maximum) {
    count_maxima(c, rows, out);
  } else {
    const at::Tensor sums = c.filled(out.sizes(), 0);
    c.scatter(sums, bag, bags.weighed(rows, {c.tensor("per_sample_weights")}), true);
    c.map({sums, mode == Mode::mean ? as_column(sizes) : at::Tensor()}, {out}, [&](Expression& e, const Values& v) {
      e.output(0, mode == Mode::mean ? e.divide(v[0], e.apply(Alu::maximum, v[1], 1)) : e.copy(v[0]));
    });
  }
  if (to_bag.defined() && to_bag.numel() == bag.numel()) {
    c.copy(bag, to_bag);
  }
  if (to_sizes.defined() && to_sizes.numel() == sizes.numel()) {
    c.copy(sizes, to_sizes);
  }
}

// ---- Backward

// One over the size of each index' bag.
at::Tensor share(Composition& c, const Bags& bags, const at::Tensor& bag, const at::Tensor& sizes) {
  const at::Tensor each = c.temporary({sizes.numel(), 1}), own = c.temporary({bags.picks(), 1});
  c.map({as_column(sizes)}, {each},
        [](Expression& e, const Values& v) { e.output(0, e.reciprocal(e.apply(Alu::maximum, v[0], 1))); });
  c.gather(each, bag, own);
  return own;
}

// Each element of a bag's gradient goes to the row that had the maximum there; an empty bag's to none.
void give_to_maxima(Composition& c, const at::Tensor& grad, const at::Tensor& table) {
  const at::Tensor places = wide(c, c.tensor("maximum_indices")), given = c.temporary(grad.sizes());
  c.map({grad, as_column(c.tensor("bag_size"))}, {given},
        [](Expression& e, const Values& v) { e.output(0, e.where_not(e.apply(Alu::equal, v[1], 0), v[0], 0)); });
  c.scatter_add_elements(table.unsqueeze(0), places, given);
}

void backward(Composition& c) {
  const at::Tensor grad = c.tensor("grad");
  const at::Tensor& out = c.args().output();
  if (out.numel() == 0) {
    return;
  }
  if (c.args().boolean("scale_grad_by_freq", false)) {  // PyTorch's CPU kernel takes another index' frequency
    c.only_counts();
  }
  const bool is_direct = out.scalar_type() == at::kFloat;
  const at::Tensor table = is_direct ? out : c.temporary(out.sizes());
  c.fill(table, 0);
  const Bags bags(c, {});
  if (mode_of(c) == Mode::maximum) {
    give_to_maxima(c, grad, table);
  } else if (bags.picks() > 0) {
    const at::Tensor bag = wide(c, c.tensor("offset2bag"));
    const at::Tensor rows = c.temporary({bags.picks(), grad.size(1)}, grad.scalar_type());
    c.gather(grad, bag, rows);
    const Stack weights{c.tensor("per_sample_weights"),
                        mode_of(c) == Mode::mean ? share(c, bags, bag, c.tensor("bag_size")) : at::Tensor()};
    c.scatter(table, bags.index(), bags.weighed(rows, weights), true);
  }
  if (!is_direct) {
    c.copy(table, out);
  }
}

// Of each index the product of its row and its bag's gradient.
void weights_backward(Composition& c) {
  const at::Tensor grad = c.tensor("grad"), weight = c.tensor("weight");
  const at::Tensor& out = c.args().output();
  Bags bags(c, c.tensor("offsets"));
  if (out.numel() == 0) {
    return;
  }
  at::Tensor bag = c.tensor("offset2bag");
  if (bag.numel() == bags.picks()) {
    bag = wide(c, bag);
  } else {
    bag = c.temporary({bags.picks()}, at::kLong);
    bags.assign(bag);
  }
  const at::Tensor gradients = c.temporary({bags.picks(), grad.size(1)}, grad.scalar_type());
  const at::Tensor rows = c.temporary(gradients.sizes(), weight.scalar_type());
  c.gather(grad, bag, gradients);
  c.gather(weight, bags.index(), rows);
  const at::Tensor products = bags.has_padding() ? c.temporary(out.sizes()) : out;
  const std::int64_t last = -1;
  c.reduce({gradients, rows}, products, {&last, 1}, {Alu::add, steps_of(tt(Alu::multiply))});
  if (bags.has_padding()) {
    c.copy(bags.weighed(as_column(products), {}), as_column(out));
  }
}

constexpr Composed kBags[] = {
    {"_embedding_bag", forward},
    {"_embedding_bag_dense_backward", backward},
    {"_embedding_bag_forward_only", forward},
    {"_embedding_bag_per_sample_weights_backward", weights_backward},
};

}  // namespace

std::span<const Composed> composed_bags() {
  return kBags;
}

}  // namespace trn::aten::rules
