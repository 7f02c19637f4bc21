#include "tests/support/run_program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <stdexcept>

extern char** environ;

namespace qlora::testing {
namespace {

struct Pipe {
  int read_end = -1, write_end = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    close_read();
    close_write();
  }
  void close_read() {
    if (read_end >= 0) close(read_end);
    read_end = -1;
  }
  void close_write() {
    if (write_end >= 0) close(write_end);
    write_end = -1;
  }
};

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

/// Appends what is there to read; false at the end of the stream.
bool read_some(int descriptor, std::string& text) {
  char buffer[65536];
  const ssize_t count = read(descriptor, buffer, sizeof buffer);
  if (count > 0) text.append(buffer, static_cast<size_t>(count));
  return count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR));
}

/// Feeds and drains the child until both its streams end.
void communicate(pid_t child, Pipe& in, Pipe& out, Pipe& err, const ProgramInput& input,
                 ProgramResult& result) {
  const auto start = std::chrono::steady_clock::now();
  size_t fed = 0;
  fcntl(in.write_end, F_SETFL, O_NONBLOCK);
  if (input.standard_input.empty()) in.close_write();
  while (out.read_end >= 0 || err.read_end >= 0) {
    pollfd fds[] = {
        {out.read_end, POLLIN, 0}, {err.read_end, POLLIN, 0}, {in.write_end, POLLOUT, 0}};
    poll(fds, 3, 5);
    if (fds[0].revents != 0 && !read_some(out.read_end, result.out)) out.close_read();
    if (fds[1].revents != 0 && !read_some(err.read_end, result.err)) err.close_read();
    if (fds[2].revents != 0) {
      const ssize_t count =
          write(in.write_end, input.standard_input.data() + fed, input.standard_input.size() - fed);
      if (count > 0) fed += static_cast<size_t>(count);
      if (fed == input.standard_input.size() || (count < 0 && errno != EAGAIN)) in.close_write();
    }
    if (input.while_running) input.while_running(child);
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    if (passed.count() > input.timeout_seconds) kill(child, SIGKILL);
  }
}

}  // namespace

ProgramResult run_program(const std::filesystem::path& program,
                          const std::vector<std::string>& arguments, const ProgramInput& input) {
  std::vector<std::string> words = {program.string()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable)
    variables.emplace_back(*variable);
  variables.insert(variables.begin(), input.environment.begin(), input.environment.end());
  const std::vector<char*> argv = pointers(words), envp = pointers(variables);
  const std::string directory = input.working_directory.string();

  signal(SIGPIPE, SIG_IGN);  // a child that does not read its input must not end the test
  Pipe in, out, err;
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    signal(SIGPIPE, SIG_DFL);
    dup2(in.read_end, STDIN_FILENO);
    dup2(out.write_end, STDOUT_FILENO);
    dup2(err.write_end, STDERR_FILENO);
    if (!directory.empty() && chdir(directory.c_str()) != 0) _exit(126);
    execve(argv[0], argv.data(), envp.data());
    _exit(127);
  }
  in.close_read();
  out.close_write();
  err.close_write();
  ProgramResult result;
  communicate(child, in, out, err, input, result);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace qlora::testing
