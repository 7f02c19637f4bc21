#pragma once

namespace qlora {

/// While it lives, Ctrl-C (SIGINT) and SIGTERM do not kill the process but are noted; a Ctrl-C
/// after one of them exits at once with 130. Restores the handlers that were there.
/// One at a time: a second instance throws ValueError.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
};

bool stop_requested();
int stop_signal();  // the first signal that was noted, 0 if there was none

/// What the process exits with after an orderly stop: 130 or 143, 0 if there was no signal.
int stop_exit_code();

}  // namespace qlora
