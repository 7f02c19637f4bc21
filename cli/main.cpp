#include <cstring>

#include "cli/program.h"

namespace {

char spin_setting[] = "GOMP_SPINCOUNT=20000";

/// Threads that wait for each other spin for 4 ms by default. Where other programs want the cores,
/// that is time taken from the very thread that is waited for: an export beside a compiler run took
/// five times as long. 20,000 turns, some 0.2 ms, bridge the gap between two loops and no more.
///   libgomp reads its settings while it is loaded, which is before main() but after this, and
///   finds them in the block of the environment itself: one of the shell's own notes makes room.
void shorten_spinning(int, char**, char** environment) {
  char** room = nullptr;
  for (char** entry = environment; *entry != nullptr; ++entry) {
    const auto is = [&](const char* name) { return strncmp(*entry, name, strlen(name)) == 0; };
    if (is("GOMP_SPINCOUNT=") || is("OMP_WAIT_POLICY=")) return;  // the user's word counts
    if (is("_=") || is("OLDPWD=")) room = entry;
  }
  if (room != nullptr) *room = spin_setting;
}

__attribute__((section(".preinit_array"),
               used)) void (*const kBeforeLibraries)(int, char**, char**) = shorten_spinning;

}  // namespace

int main(int argc, char** argv) {
  return qlora::cli::run(argc, argv);
}
