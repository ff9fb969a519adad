#pragma once

// Stands before the real one in the include path of the emulated kernels.
#include "tests/kernels/cuda/emulation/emulated_hopper.h"
