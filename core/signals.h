#pragma once

namespace qlora {

/// While it lives, Ctrl-C (SIGINT), SIGTERM and SIGHUP (a terminal that was closed) do not kill the
/// process but are noted; a Ctrl-C after one of them exits at once with 130. A SIGHUP that was
/// ignored before, as nohup does, stays so. Restores the handlers that were there. One at a time: a
/// second instance throws ValueError.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
};

/// From here on a write to a pipe whose reader has gone fails instead of ending the process: for
/// work that is worth more than its log.
void ignore_broken_pipes();

bool stop_requested();
int stop_signal();  // the first signal that was noted, 0 if there was none

/// What the process exits with after an orderly stop: 130, 143 or 129, 0 if there was no signal.
int stop_exit_code();

}  // namespace qlora
