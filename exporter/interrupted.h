#pragma once

#include "core/signals.h"

namespace qlora::exporter {

/// Unwinds an export that Ctrl-C or SIGTERM asked to stop. Finished blocks stay in the work
/// directory; the block that was under way is begun again.
struct Interrupted {};

/// throws Interrupted, which no handler of errors may take: it is no std::exception
[[noreturn]] inline void unwind_export() {
  throw Interrupted{};  // NOLINT(bugprone-std-exception-baseclass)
}

/// throws Interrupted where a signal was noted
inline void check_stop_request() {
  if (stop_requested()) unwind_export();
}

}  // namespace qlora::exporter
