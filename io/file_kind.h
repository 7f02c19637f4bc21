#pragma once

#include <string_view>

namespace qlora::io {

/// Refuses what a clone or a download that went wrong leaves in the place of a file: a pointer of
/// Git LFS, an HTML page.
///   where     "[io] model.safetensors": area and file, for the message
///   throws    FormatError that says what it is and what to do
///   cost      looks at the first bytes
void refuse_placeholder(std::string_view content, std::string_view where);

/// The same for files of texts and of tokenizers, which are no archive, table of Parquet or
/// Arrow, or UTF-16 either.
///   cost      looks at the first bytes, and the last four
void refuse_other_kind(std::string_view content, std::string_view where);

}  // namespace qlora::io
