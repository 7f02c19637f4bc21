#include <sanitizer/tsan_interface.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>

#include "tests/emulation/device/fiber.h"

namespace qlora::emulation {

struct Fiber {
  char* stack;
  ucontext_t context;
  void* thread;  // as ThreadSanitizer knows it
};

namespace {

ucontext_t scheduler;
void* scheduler_thread = nullptr;
constexpr unsigned kOrdersNothing = 1;  // a switch alone is no synchronization

}  // namespace

Fiber* create_fiber(void (*body)()) {
  auto* const fiber = new Fiber{};
  void* const stack = mmap(nullptr, kFiberStackBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) {
    std::perror("[emulation] no memory for a thread's stack");
    std::abort();
  }
  fiber->stack = static_cast<char*>(stack);
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = stack;
  fiber->context.uc_stack.ss_size = kFiberStackBytes;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, body, 0);
  fiber->thread = __tsan_create_fiber(0);
  return fiber;
}

void resume(Fiber& fiber) {
  scheduler_thread = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber.thread, kOrdersNothing);
  swapcontext(&scheduler, &fiber.context);
}

void suspend(Fiber& fiber) {
  __tsan_switch_to_fiber(scheduler_thread, kOrdersNothing);
  swapcontext(&fiber.context, &scheduler);
}

Stack stack_of(const Fiber& fiber) {
  return {fiber.stack, fiber.stack + kFiberStackBytes};
}

void happens_before(void* mark) {
  __tsan_release(mark);
}
void happens_after(void* mark) {
  __tsan_acquire(mark);
}

}  // namespace qlora::emulation
