#pragma once

namespace baton::cli {
inline constexpr const char* kVersion = BATON_VERSION;
}
