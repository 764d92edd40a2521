// torch.histc of integers, which accelerators have and the CPU has not: mixture-of-experts routers count tokens by it.
#include <ATen/ops/histc.h>
#include <torch/library.h>

namespace trn::aten {

namespace {

// double holds every integer below 2^53; counts go back to the type of `self`, as on CUDA.
at::Tensor histogram(const at::Tensor& self, std::int64_t bins, const at::Scalar& min, const at::Scalar& max) {
  if (!at::isIntegralType(self.scalar_type(), false)) {
    return at::histc(self, bins, min, max);
  }
  return at::histc(self.to(at::kDouble), bins, min, max).to(self.scalar_type());
}

at::Tensor& histogram_out(const at::Tensor& self, std::int64_t bins, const at::Scalar& min, const at::Scalar& max,
                          at::Tensor& out) {
  if (!at::isIntegralType(self.scalar_type(), false)) {
    return at::histc_out(out, self, bins, min, max);
  }
  TORCH_CHECK(out.scalar_type() == self.scalar_type(), "[histc] the result has the input's type; got ",
              out.scalar_type(), ", limit ", self.scalar_type(), ".");
  const at::Tensor counts = histogram(self, bins, min, max);
  return out.resize_(counts.sizes()).copy_(counts);
}

TORCH_LIBRARY_FRAGMENT(trn, m) {
  m.def("histc(Tensor self, int bins=100, Scalar min=0, Scalar max=0) -> Tensor");
  m.def("histc.out(Tensor self, int bins=100, Scalar min=0, Scalar max=0, *, Tensor(a!) out) -> Tensor(a!)");
}

TORCH_LIBRARY_IMPL(trn, CPU, m) {
  m.impl("histc", TORCH_FN(histogram));
  m.impl("histc.out", TORCH_FN(histogram_out));
}

}  // namespace

}  // namespace trn::aten
