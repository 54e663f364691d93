// A device that is the CPU under another name. Its tensors live in ordinary memory, every operator
// falls back to the CPU's, and what would fail on a GPU fails here in the same words: a tensor of
// each device in one operator, the CPU's generator for a tensor of the device, `.numpy()`.
// What makes the host wait (a number read, a copy to the host) is counted.
#include <torch/extension.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/ScopeExit.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace {

constexpr auto OURS = c10::DeviceType::PrivateUse1;
const at::Device place(OURS, 0);
std::atomic<int64_t> waits{0};
thread_local bool working = false;  // in a fallback, whose own copies to the CPU are no waits

// ---- memory, streams: there is one of everything, and nothing to wait for

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr auto static_type = OURS;
  static c10::Stream only() { return c10::Stream(c10::Stream::DEFAULT, place); }
  c10::DeviceType type() const override { return OURS; }
  c10::Device exchangeDevice(c10::Device device) const override { return device; }
  c10::Device getDevice() const override { return place; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return only(); }
  c10::Stream getNewStream(c10::Device, int = 0) const override { return only(); }
  c10::Stream exchangeStream(c10::Stream) const override { return only(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Memory final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    void* start = bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    return {start, start, &std::free, place};
  }
  at::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};
Memory memory;
REGISTER_ALLOCATOR(OURS, &memory);

// ---- random numbers: a generator of the device wraps one of the CPU, with the same numbers

struct Random final : c10::GeneratorImpl {
  at::Generator inner;
  explicit Random(at::Generator g)
      : GeneratorImpl(place, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        inner(std::move(g)) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { inner.set_offset(offset); }
  uint64_t get_offset() const override { return inner.get_offset(); }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_state(const c10::TensorImpl& state) override {
    inner.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return inner.unsafeGetGeneratorImpl()->get_state();
  }
  Random* clone_impl() const override { return new Random(inner.clone()); }
};

at::Generator generator() {
  return at::make_generator<Random>(at::detail::createCPUGenerator());
}

struct Hooks final : at::PrivateUse1HooksInterface {
  at::Generator everyones = generator();
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  at::Device getDeviceFromPtr(void*) const override { return place; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return generator(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return everyones; }
};
const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

// ---- the operators that a backend must have itself

// the same memory, seen from the CPU
at::Tensor host(const at::Tensor& x) {
  auto options = at::TensorOptions().dtype(x.scalar_type());
  auto seen = at::from_blob(x.data_ptr(), x.sizes(), x.strides(), options);
  seen._set_neg(x.is_neg());
  seen._set_conj(x.is_conj());
  return seen;
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  at::NoGradGuard quiet;
  if (from.is_privateuseone() && to.is_cpu() && !working) waits++;
  auto source = from.is_cpu() ? from : host(from);
  (to.is_cpu() ? to : host(to)).copy_(source);
  return to;
}

at::Scalar number(const at::Tensor& x) {
  at::NoGradGuard quiet;
  if (!working) waits++;
  return host(x).item();
}

const at::Tensor& resize(const at::Tensor& x, c10::IntArrayRef size,
                         std::optional<at::MemoryFormat>) {
  if (x.sizes() == size) return x;  // a strided view keeps its strides, as `vmap` needs it to
  auto bytes = at::detail::computeStorageNbytesContiguous(size, x.dtype().itemsize(),
                                                          x.storage_offset());
  auto storage = x.storage();
  if (storage.nbytes() < bytes) {
    auto larger = memory.allocate(bytes);
    if (storage.nbytes()) std::memcpy(larger.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr_noswap(std::move(larger));
    storage.set_nbytes(bytes);
  }
  x.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return x;
}

at::Tensor down(const at::Tensor& x) { return x.is_privateuseone() ? host(x) : x; }
at::Tensor up(const at::Tensor& x) { return x.defined() ? x.to(place) : x; }

void together(bool ours, bool theirs, const std::string& operation) {
  TORCH_CHECK(!(ours && theirs), "Expected all tensors to be on the same device, but found at ",
              "least two devices, pretend:0 and cpu! (in ", operation, ")");
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, c10::IntArrayRef stride,
                       c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
                       c10::IntArrayRef output_padding, int64_t groups) {
  together(x.is_privateuseone() || weight.is_privateuseone(), x.is_cpu() || weight.is_cpu(),
           "convolution");
  std::optional<at::Tensor> added;
  if (bias && bias->defined()) added = down(*bias);
  return up(at::convolution(down(x), down(weight), added, stride, padding, dilation, transposed,
                            output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_back(
    const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& weight,
    c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
    c10::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> mask) {
  std::vector<int64_t> channels{transposed ? weight.size(1) * groups : weight.size(0)};
  auto [dx, dweight, dbias] = at::convolution_backward(
      down(gradient), down(x), down(weight), at::OptionalIntArrayRef(channels), stride, padding,
      dilation, transposed, output_padding, groups, mask);
  return {up(dx), up(dweight), up(dbias)};
}

// the fallback would leave the running statistics as they are: its schema does not say they change
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm(
    const at::Tensor& x, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& mean,
    const std::optional<at::Tensor>& variance, bool training, double momentum, double eps) {
  auto seen = [&](const std::optional<at::Tensor>& part) -> std::optional<at::Tensor> {
    if (!part || !part->defined()) return std::nullopt;
    together(x.is_privateuseone() || part->is_privateuseone(), x.is_cpu() || part->is_cpu(),
             "batch_norm");
    return down(*part);
  };
  auto [y, center, scale] = at::native_batch_norm(down(x), seen(weight), seen(bias), seen(mean),
                                                  seen(variance), training, momentum, eps);
  return {up(y), up(center), up(scale)};
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", [](const at::Tensor& from, const at::Tensor& to) {
    to.resize_(from.sizes());
    return copy_from(from, to, false);
  });
  library.impl("_local_scalar_dense", &number);
  library.impl("resize_", &resize);
  library.impl("as_strided", &at::cpu::as_strided);
  library.impl("view", [](const at::Tensor& x, c10::IntArrayRef size) {
    return at::native::view(x, size);
  });
  library.impl("unfold", [](const at::Tensor& x, int64_t dim, int64_t size, int64_t step) {
    return at::native::unfold(x, dim, size, step);
  });
  library.impl("_reshape_alias", [](const at::Tensor& x, c10::IntArrayRef size,
                                    c10::IntArrayRef stride) {
    return at::native::_reshape_alias(x, size, stride);
  });
  library.impl("set_.source_Storage_storage_offset",
               [](at::Tensor& x, at::Storage storage, int64_t offset, c10::IntArrayRef size,
                  c10::IntArrayRef stride) -> at::Tensor& {
    return at::cpu::set_(x, storage, offset, size, stride);
  });
  library.impl("set_.source_Storage", [](at::Tensor& x, at::Storage storage) -> at::Tensor& {
    auto length = static_cast<int64_t>(storage.nbytes() / x.dtype().itemsize());
    return at::cpu::set_(x, storage, 0, {length}, {});
  });
  library.impl("native_batch_norm", &batch_norm);
  library.impl("convolution_overrideable", &convolution);
  library.impl("convolution_backward_overrideable", &convolution_back);
}

// ---- everything else: refuse what mixes, then do it on the CPU

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto count = op.schema().arguments().size();
  const auto name = op.schema().name();
  bool ours = false, theirs = false;
  auto look = [&](const at::Tensor& x) {
    if (!x.defined()) return;
    if (x.is_privateuseone()) ours = true;
    else if (x.dim() > 0) theirs = true;  // a number may stay on the CPU, as beside CUDA
  };
  for (size_t i = 0; i < count; i++) {
    auto& value = torch::jit::peek(*stack, i, count);
    if (value.isTensor()) look(value.toTensor());
    else if (value.isTensorList())
      for (const auto& x : value.toTensorVector()) look(x);
    else if (value.isGenerator()) {
      auto g = value.toGenerator();
      TORCH_CHECK(g.device().type() == OURS, "Expected a 'pretend' device type for generator but ",
                  "found '", g.device().type(), "' (in ", name, ")");
      value = static_cast<Random*>(g.unsafeGetGeneratorImpl())->inner;
    }
  }
  together(ours, theirs, name);
  const bool before = std::exchange(working, true);
  auto restore = c10::make_scope_exit([&] { working = before; });
  at::native::cpu_fallback(op, stack);
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("waits", [] { return waits.load(); });
  module.def("manual_seed", [](uint64_t seed) {
    at::detail::getPrivateUse1Hooks().getDefaultGenerator(0).unsafeGetGeneratorImpl()
        ->set_current_seed(seed);
  });
  module.def("default_generator",
             [] { return at::detail::getPrivateUse1Hooks().getDefaultGenerator(0); });
}
