// The launch functions and kernels themselves, compiled for the emulated device.
#include "kernels/cuda/attention_kernels.cu"
#include "kernels/cuda/draw_kernels.cu"
#include "kernels/cuda/hopper_attention.cu"
#include "kernels/cuda/hopper_linear.cu"
#include "kernels/cuda/hopper_quantise.cu"
#include "kernels/cuda/linear_kernels.cu"
#include "kernels/cuda/row_kernels.cu"
