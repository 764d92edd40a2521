// Operators that scale by statistics: SyncBatchNorm's pieces, weight norm, renorm, masked softmax, extremes.
#include <algorithm>

#include "aten/rules/composition.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;
// ---- Batch norm in pieces. Channels are axis 1 of the input.

std::vector<std::int64_t> all_but_channels(const at::Tensor& input) {
  std::vector<std::int64_t> dims{0};
  for (std::int64_t d = 2; d < input.dim(); ++d) {
    dims.push_back(d);
  }
  return dims;
}

float eps_of(const Composition& c) {
  return static_cast<float>(c.args().number("eps", 0));
}

void batch_norm_stats(Composition& c) {
  const at::Tensor input = c.tensor("input");
  c.variance(input, c.args().output(1), c.args().output(0), all_but_channels(input),
             steps_of(ts(Alu::add, eps_of(c)), act(Activation::rsqrt)));
}

// What this batch contributes to the running statistics; a variance of `count` elements becomes that of count - 1.
void keep_running(Composition& c, const at::Tensor& mean, const at::Tensor& variance, double unbiased) {
  const auto momentum = static_cast<float>(c.args().number("momentum", 0.1));
  auto keep = [&](std::string_view name, const at::Tensor& batch, double factor) {
    const at::Tensor running = c.tensor(name);
    if (running.defined()) {
      c.map({running, batch}, {running}, [&](Expression& e, const Values& v) {
        e.output(0, e.apply(Alu::multiply, v[0], 1 - momentum, Alu::add,
                            e.multiply(v[1], static_cast<float>(momentum * factor))));
      });
    }
  };
  keep("running_mean", mean, 1);
  keep("running_var", variance, unbiased);
}

void batch_norm_update_stats(Composition& c) {
  const at::Tensor input = c.tensor("input");
  const at::Tensor &mean = c.args().output(0), &variance = c.args().output(1);
  c.variance(input, variance, mean, all_but_channels(input), {});
  const double count =
      static_cast<double>(input.numel()) / static_cast<double>(std::max<std::int64_t>(mean.numel(), 1));
  keep_running(c, mean, variance, count / (count - 1));
}

// mean, invstd: [processes, channels]; counts: [processes].
void batch_norm_gather_stats(Composition& c) {
  const at::Tensor means = c.tensor("mean"), inverses = c.tensor("invstd"), counts = c.along("counts", 0, 2);
  const at::Tensor &mean = c.args().output(0), &inverse = c.args().output(1);
  const std::int64_t over_processes = 0;
  const std::span dims(&over_processes, 1);
  const float eps = eps_of(c);
  const at::Tensor total = c.temporary({1}), weighted = c.temporary(means.sizes()), sum = c.temporary(mean.sizes());
  c.reduce({counts}, total, {}, {});
  c.map({means, counts}, {weighted}, [](Expression& e, const Values& v) { e.output(0, e.multiply(v[0], v[1])); });
  c.reduce({weighted}, sum, dims, {});
  c.map({sum, total}, {mean}, [](Expression& e, const Values& v) { e.output(0, e.divide(v[0], v[1])); });
  // Each process's sum of squares around the common mean: its own, and its mean's distance.
  c.map({means, mean, inverses, counts}, {weighted}, [&](Expression& e, const Values& v) {
    const Value own = e.activation(Activation::square, e.reciprocal(v[2]));
    const Value distance = e.activation(Activation::square, e.subtract(v[0], v[1]));
    e.output(0, e.multiply(e.apply(Alu::subtract, own, eps, Alu::add, distance), v[3]));
  });
  c.reduce({weighted}, sum, dims, {});
  c.map({sum, total}, {inverse}, [&](Expression& e, const Values& v) {
    e.output(0, e.activation(Activation::rsqrt, e.divide(v[0], v[1]), 1, eps));
  });
  if (c.tensor("running_var").defined()) {
    const at::Tensor unbiased = c.temporary(mean.sizes());
    c.map({sum, total}, {unbiased},
          [](Expression& e, const Values& v) { e.output(0, e.divide(v[0], e.subtract(v[1], 1))); });
    keep_running(c, mean, unbiased, 1);
  } else {
    keep_running(c, mean, {}, 1);
  }
}

void batch_norm_elemt(Composition& c) {
  const at::Tensor input = c.tensor("input");
  auto channels = [&](std::string_view name) { return c.along(name, 1, input.dim()); };
  const at::Tensor weight = channels("weight"), bias = channels("bias");
  c.map({input, channels("mean"), channels("invstd"), weight, bias}, {c.args().output()},
        [&](Expression& e, const Values& v) {
          Value result = e.multiply(e.subtract(v[0], v[1]), v[2]);
          result = weight.defined() ? e.multiply(result, v[3]) : result;
          e.output(0, bias.defined() ? e.add(result, v[4]) : result);
        });
}

void batch_norm_backward_reduce(Composition& c) {
  const at::Tensor input = c.tensor("input"), grad = c.tensor("grad_out");
  const std::vector<std::int64_t> sizes{size(input, 1)}, dims = all_but_channels(input);
  const at::Tensor sum = c.temporary(sizes), moment = c.temporary(sizes), product = c.temporary(input.sizes());
  c.reduce({grad}, sum, dims, {});
  c.map({grad, input, c.along("mean", 1, input.dim())}, {product},
        [](Expression& e, const Values& v) { e.output(0, e.multiply(e.subtract(v[1], v[2]), v[0])); });
  c.reduce({product}, moment, dims, {});
  auto give = [&](int position, const at::Tensor& value) {
    if (c.args().output(position).defined()) {
      c.copy(value, c.args().output(position));
    }
  };
  give(0, sum);
  give(1, moment);
  c.map({moment, c.tensor("invstd")}, {c.args().output(2)},
        [](Expression& e, const Values& v) { e.output(0, e.multiply(v[0], v[1])); });
  give(3, sum);
}

void batch_norm_backward_elemt(Composition& c) {
  const at::Tensor input = c.tensor("input");
  auto channels = [&](std::string_view name) { return c.along(name, 1, input.dim()); };
  const at::Tensor weight = channels("weight"), total = c.temporary({1});
  c.reduce({c.tensor("count")}, total, {}, {});
  c.map({c.tensor("grad_out"), input, channels("mean"), channels("invstd"), channels("sum_dy"), channels("sum_dy_xmu"),
         total, weight},
        {c.args().output()}, [&](Expression& e, const Values& v) {
          const Value square = e.activation(Activation::square, v[3]);
          const Value projection = e.multiply(e.divide(v[5], v[6]), square);
          const Value away = e.multiply(e.subtract(v[1], v[2]), projection);
          const Value centred = e.subtract(e.subtract(v[0], e.divide(v[4], v[6])), away);
          const Value result = e.multiply(centred, v[3]);
          e.output(0, weight.defined() ? e.multiply(result, v[7]) : result);
        });
}

// ---- Norms of slices

std::vector<std::int64_t> all_but(std::int64_t dim, std::int64_t rank) {
  std::vector<std::int64_t> dims;
  for (std::int64_t d = 0; d < rank; ++d) {
    if (d != (dim < 0 ? dim + rank : dim)) {
      dims.push_back(d);
    }
  }
  return dims;
}

// Over all axes but `dim`; of a vector each element is its own slice.
void reduce_slices(Composition& c, const Stack& inputs, const at::Tensor& output, std::int64_t dim, Fold fold) {
  const auto dims = all_but(dim, inputs.front().dim());
  if (!dims.empty()) {
    c.reduce(inputs, output, dims, std::move(fold));
    return;
  }
  Stack rows;
  for (const at::Tensor& input : inputs) {
    rows.push_back(input.unsqueeze(-1));
  }
  const std::int64_t last = -1;
  c.reduce(rows, output, {&last, 1}, std::move(fold));
}

// w = g v / |v|, a norm for each slice along `dim`.
void weight_norm(Composition& c) {
  const at::Tensor v = c.tensor("v"), g = c.tensor("g");
  const at::Tensor& norms = c.args().output(1);
  reduce_slices(c, {v}, norms, c.args().integer("dim", 0), norm_fold(2));
  c.map({v, g, norms}, {c.args().output(0)},
        [](Expression& e, const Values& x) { e.output(0, e.multiply(e.divide(x[1], x[2]), x[0])); });
}

// grad_g = sum(grad v) / |v|; grad_v = g / |v| (grad - v sum(grad v) / |v|^2)
void weight_norm_backward(Composition& c) {
  const at::Tensor grad = c.tensor("grad_w"), v = c.tensor("saved_v"), g = c.tensor("saved_g");
  const at::Tensor norms = c.tensor("saved_norms"), sums = c.temporary(norms.sizes());
  reduce_slices(c, {grad, v}, sums, c.args().integer("dim", 0), {Alu::add, steps_of(tt(Alu::multiply))});
  c.map({sums, norms}, {c.args().output(1)}, [](Expression& e, const Values& x) { e.output(0, e.divide(x[0], x[1])); });
  c.map({grad, v, g, norms, sums}, {c.args().output(0)}, [](Expression& e, const Values& x) {
    const Value along = e.divide(x[4], e.activation(Activation::square, x[3]));
    const Value across = e.subtract(x[0], e.multiply(x[1], along));
    e.output(0, e.multiply(across, e.divide(x[2], x[3])));
  });
}

// Slices whose norm is larger than `most` shrink to it.
void shrink(Composition& c, const at::Tensor& slices, const at::Tensor& norms, const at::Tensor& to, float most) {
  c.map({slices, norms}, {to}, [&](Expression& e, const Values& v) {
    const Value factor = e.multiply(e.reciprocal(e.add(v[1], 1e-7F)), most);
    e.output(0, e.multiply(e.select(e.apply(Alu::greater, v[1], most), factor, 1), v[0]));
  });
}

void renorm(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const std::int64_t given = c.args().integer("dim", 0), dim = given < 0 ? given + self.dim() : given;
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(self.dim()), 1);
  sizes[static_cast<std::size_t>(dim)] = self.size(dim);
  const at::Tensor norms = c.temporary(sizes);
  reduce_slices(c, {self}, norms, dim, norm_fold(c.args().number("p", 2)));
  shrink(c, self, norms, c.args().output(), static_cast<float>(c.args().number("maxnorm", 1)));
}

// The rows that are picked; one that is picked twice is written twice, alike.
void embedding_renorm(Composition& c) {
  const at::Tensor table = c.args().output(), index = c.flat(c.tensor("indices"));
  const std::int64_t width = size(table, 1);
  if (!table.is_same(c.tensor("self"))) {
    c.copy(c.tensor("self"), table);
  }
  const at::Tensor rows = c.temporary({index.numel(), width}, table.scalar_type());
  const at::Tensor norms = c.temporary({index.numel(), 1});
  c.gather(table, index, rows);
  const std::int64_t last = -1;
  c.reduce({rows}, norms, {&last, 1}, norm_fold(c.args().number("norm_type", 2)));
  shrink(c, rows, norms, rows, static_cast<float>(c.args().number("max_norm", 1)));
  c.scatter(table, index, rows, false);
}

// ---- Softmax where a mask is false

at::Tensor mask_of(const Composition& c, const at::Tensor& like) {
  const at::Tensor mask = c.tensor("mask");
  if (mask.dim() != 2 || like.dim() != 4) {
    return mask;
  }
  return c.args().integer("mask_type", 2) == 1 ? mask.view({mask.size(0), 1, 1, mask.size(1)}) : mask;
}

// Along `dim`, or all elements as one row where it is not given.
void softmax_of(Composition& c, Stack inputs, bool backward) {
  at::Tensor out = c.args().output();
  if (!c.args().is_given("dim")) {
    for (at::Tensor& input : inputs) {
      input = c.flat(input);
    }
    out = out.view({-1});
  }
  c.softmax(inputs, out, c.args().is_given("dim") ? c.args().integer("dim", -1) : 0, backward);
}

void masked_softmax(Composition& c) {
  const at::Tensor self = c.tensor("self"), visible = c.temporary(self.sizes());
  c.map({self, mask_of(c, self)}, {visible},
        [](Expression& e, const Values& v) { e.output(0, e.where_not(v[1], v[0], -kInfinity)); });
  softmax_of(c, {visible}, false);
}

void masked_softmax_backward(Composition& c) {
  const at::Tensor grad = c.tensor("grad_output"), output = c.tensor("output");
  const at::Tensor visible = c.temporary(output.sizes(), output.scalar_type());
  c.map({output, mask_of(c, output)}, {visible},
        [](Expression& e, const Values& v) { e.output(0, e.where_not(v[1], v[0], 0)); });
  softmax_of(c, {grad, visible}, true);
}

// ---- Both extremes

void extremes(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const bool is_whole = self.dim() == 0 || !c.args().is_given("dim");
  const std::int64_t dim = is_whole ? 0 : c.args().integer("dim", 0);
  const std::span dims(&dim, is_whole ? 0 : 1);
  c.reduce({self}, c.args().output(0), dims, {Alu::minimum});
  c.reduce({self}, c.args().output(1), dims, {Alu::maximum});
}

constexpr Composed kNorms[] = {
    {"_aminmax", extremes},
    {"_masked_softmax", masked_softmax},
    {"_masked_softmax_backward", masked_softmax_backward},
    {"_weight_norm_interface", weight_norm},
    {"_weight_norm_interface_backward", weight_norm_backward},
    {"aminmax", extremes},
    {"batch_norm_backward_elemt", batch_norm_backward_elemt},
    {"batch_norm_backward_reduce", batch_norm_backward_reduce},
    {"batch_norm_elemt", batch_norm_elemt},
    {"batch_norm_gather_stats_with_counts", batch_norm_gather_stats},
    {"batch_norm_stats", batch_norm_stats},
    {"batch_norm_update_stats", batch_norm_update_stats},
    {"embedding_renorm", embedding_renorm},
    {"renorm", renorm},
};

}  // namespace

std::span<const Composed> composed_norms() {
  return kNorms;
}

}  // namespace trn::aten::rules
