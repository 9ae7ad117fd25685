// Torch's current CUDA stream and launch errors, without linking torch's CUDA libraries; knows no operator.
#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace whylight {

// The one symbol of libtorch_cuda that is needed is looked up in the library that torch has already loaded, so that the
// same extension also loads beside a torch without CUDA. (From torch 2.13 on, Stream::nativeHandle() would do.)
inline cudaStream_t current_stream(int32_t device) {
  using Function = AOTITorchError (*)(int32_t, void**);
  static const Function function = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Function>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  void* stream = nullptr;
  STD_TORCH_CHECK(function && function(device, &stream) == 0, "whylight: torch's current CUDA stream is not to be had");
  return static_cast<cudaStream_t>(stream);
}

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, op, ": the launch failed: ", cudaGetErrorString(error));
}

}  // namespace whylight
