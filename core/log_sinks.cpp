#include "core/log_sinks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/clock.h"
#include "core/error.h"

namespace qlora {
namespace {

constexpr const char* kEraseLine = "\r\x1b[K";

// On one line, without what a terminal would obey: C0, DEL and the C1 controls (U+0080 to U+009F).
std::string printable(const std::string& text) {
  std::string shown;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_c1 =
        byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (is_c1) ++i;
    shown += byte < 0x20 || byte == 0x7F || is_c1 ? '?' : text[i];
  }
  return shown;
}

// The first `columns` characters; every code point counts as one column.
std::string cut(const std::string& text, int columns) {
  int seen = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool starts_character = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    if (starts_character && ++seen > columns) return text.substr(0, i);
  }
  return text;
}

int terminal_columns(std::FILE* out) {
  winsize size = {};
  const bool known = ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

}  // namespace

TerminalLog::TerminalLog(std::FILE* out, const TerminalLogOptions& options)
    : out_(out),
      options_(options),
      is_terminal_(options.is_terminal.value_or(isatty(fileno(out)) == 1)) {}

TerminalLog::~TerminalLog() {
  if (!live_.empty()) std::fputc('\n', out_);
  std::fflush(out_);
}

void TerminalLog::notice(const std::string& text) {
  if (options_.verbosity != Verbosity::kQuiet) print(text);
}

void TerminalLog::warn(const std::string& text) {
  print("warning: " + text);
}

void TerminalLog::print(const std::string& text) {
  const std::lock_guard lock(mutex_);
  if (!live_.empty()) std::fputs(kEraseLine, out_);
  std::fputs((printable(text) + "\n").c_str(), out_);
  draw();
}

void TerminalLog::live(const std::string& text) {
  if (options_.verbosity == Verbosity::kQuiet) return;
  const std::lock_guard lock(mutex_);
  if (is_terminal_) {
    // An empty text takes the line away.
    if (text.empty() && !live_.empty()) std::fputs(kEraseLine, out_);
    live_ = printable(text);
    draw();
    return;
  }
  if (text.empty()) return;
  const double now = wall_seconds();
  if (now - last_plain_ < options_.plain_interval_seconds) return;
  last_plain_ = now;
  std::fputs((printable(text) + "\n").c_str(), out_);
  std::fflush(out_);
}

void TerminalLog::draw() {
  if (!live_.empty()) {
    // One column stays free: a full last column makes some terminals go to the next line.
    const int columns = options_.columns > 0 ? options_.columns : terminal_columns(out_);
    std::fputs((kEraseLine + cut(live_, columns - 1)).c_str(), out_);
  }
  std::fflush(out_);
}

JsonlLog::JsonlLog(const std::filesystem::path& path) : path_(path) {
  file_ = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  QLORA_CHECK(file_ >= 0, IoError, "[log] cannot open {}: {}", path.string(), std::strerror(errno));
  char last = '\n';
  const off_t size = lseek(file_, 0, SEEK_END);
  cut_line_ = size > 0 && pread(file_, &last, 1, size - 1) == 1 && last != '\n';
}

JsonlLog::~JsonlLog() {
  close(file_);
}

void JsonlLog::notice(const std::string& text) {
  event("notice", {{"text", text}});
}

void JsonlLog::warn(const std::string& text) {
  event("warning", {{"text", text}});
}

void JsonlLog::event(const std::string& kind, const nlohmann::json& record) {
  nlohmann::ordered_json line = {{"time", utc_timestamp()}, {"kind", kind}};
  for (const auto& [key, value] : record.items()) line[key] = value;
  const std::lock_guard lock(mutex_);
  std::string text = std::exchange(cut_line_, false) ? "\n" : "";
  text += line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  // One write call a line, so that a killed run leaves whole lines.
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = write(file_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    QLORA_CHECK(written > 0, IoError, "[log] cannot write {}: {}", path_.string(),
                std::strerror(errno));
    done += static_cast<size_t>(written);
  }
}

}  // namespace qlora
