// The operators' schemas and the Python module that loading them takes; knows no kernel.
#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <whylight_build_info.h>

STABLE_TORCH_LIBRARY(whylight, m) {
  // scheme: whylight.ops.SCHEMES, by position.
  m.def("cam_pool(Tensor activations, Tensor gradients, int scheme, int[]? rows, float eps) -> Tensor");
  // normalise: 1 before the resize, 2 after it, 3 both; interpolation: 0 half-pixel bilinear, 1 bilinear with aligned
  // corners, 2 nearest; dtype: 0 float32, 1 float16, 2 uint8, 3 float64. Returns values, low, high.
  m.def(
      "cam_render(Tensor maps, SymInt height, SymInt width, bool rectify, bool signed, int normalise, float eps, "
      "int interpolation, int dtype) -> (Tensor, Tensor, Tensor)");
  m.def(
      "cam_overlay(Tensor maps, SymInt height, SymInt width, bool rectify, bool signed, int normalise, float eps, "
      "int interpolation, Tensor colours, Tensor? images, float opacity) -> (Tensor, Tensor, Tensor)");
  // tv_loss has a gradient, from tv_loss_backward; tv_loss_raw is the same without the cost of autograd per call.
  m.def("tv_loss(Tensor image, float beta, float eps, bool isotropic) -> Tensor");
  m.def("tv_loss_raw(Tensor image, float beta, float eps, bool isotropic) -> Tensor");
  m.def("tv_loss_backward(Tensor grad, Tensor image, float beta, float eps, bool isotropic) -> Tensor");
  m.def("tv_loss_with_gradient(Tensor image, float beta, float eps, bool isotropic) -> (Tensor, Tensor)");
  // What follows the GEMM, in place. gram_difference_ returns the sum of squares of each matrix's difference.
  m.def("gram_mirror_(Tensor(a!) gram) -> ()");
  m.def("gram_difference_(Tensor(a!) gram, Tensor target) -> Tensor");
}

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                   "_C",
                                   "Registers whylight's operators with torch.",
                                   -1,
                                   nullptr,
                                   nullptr,
                                   nullptr,
                                   nullptr,
                                   nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module && (PyModule_AddStringConstant(module, "source_digest", WHYLIGHT_SOURCE_DIGEST) ||
                 PyModule_AddStringConstant(module, "torch_target", WHYLIGHT_TORCH_TARGET) ||
                 PyModule_AddStringConstant(module, "cuda_architectures", WHYLIGHT_CUDA_ARCHITECTURES))) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
