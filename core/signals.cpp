#include "core/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <utility>

#include "core/error.h"

namespace qlora {
namespace {

// A handler may touch nothing but lock-free atomics and async-signal-safe calls.
static_assert(std::atomic<int>::is_always_lock_free);
std::atomic<int> noted_signal = 0;
std::atomic<bool> installed = false;
struct sigaction previous_int, previous_term, previous_hangup;

constexpr int kSignalExit = 128;  // the shell's convention

extern "C" void note_signal(int signal) {
  int none = 0;
  const bool is_first = noted_signal.compare_exchange_strong(none, signal);
  if (!is_first && signal == SIGINT) _exit(kSignalExit + SIGINT);
}

}  // namespace

StopSignals::StopSignals() {
  QLORA_CHECK(!installed.exchange(true), ValueError,
              "[core] StopSignals is installed twice, allowed once at a time");
  noted_signal = 0;
  struct sigaction action = {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;  // a read that is under way goes on
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &previous_int);
  sigaction(SIGTERM, &action, &previous_term);
  sigaction(SIGHUP, &action, &previous_hangup);
  if (previous_hangup.sa_handler == SIG_IGN) sigaction(SIGHUP, &previous_hangup, nullptr);
}

StopSignals::~StopSignals() {
  sigaction(SIGINT, &previous_int, nullptr);
  sigaction(SIGTERM, &previous_term, nullptr);
  sigaction(SIGHUP, &previous_hangup, nullptr);
  installed = false;
}

void ignore_broken_pipes() {
  std::signal(SIGPIPE, SIG_IGN);
}

bool stop_requested() {
  return noted_signal != 0;
}

int stop_signal() {
  return noted_signal;
}

int stop_exit_code() {
  return stop_requested() ? kSignalExit + stop_signal() : 0;
}

}  // namespace qlora
