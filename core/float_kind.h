#pragma once

namespace qlora {

/// Number type behind an untyped pointer in the back ends' argument structs.
enum class FloatKind { kF32, kF16, kBF16 };

}  // namespace qlora
