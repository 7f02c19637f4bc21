/// The first race ends the program, with code 66. Death tests fork, and their children run fibers.
extern "C" const char* __tsan_default_options() {
  return "halt_on_error=1:exitcode=66:die_after_fork=0";
}
