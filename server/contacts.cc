#include "server/contacts.h"

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "storage/base/log.h"
#include "storage/base/sealed_text.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

constexpr absl::string_view kHead = "understudy contacts 1\n";

absl::StatusOr<Contacts> Decode(absl::string_view text) {
  ASSIGN_OR_RETURN(const absl::string_view lines, base::UnsealText(kHead, text));
  Contacts contacts;
  for (const absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> fields = absl::StrSplit(line, ' ');
    ASSIGN_OR_RETURN(const Incarnation incarnation, Incarnation::FromHex(fields.first));
    int64_t micros = 0;
    if (!absl::SimpleAtoi(fields.second, &micros)) {
      return absl::DataLossError(absl::StrCat("line \"", line, "\" is not understood"));
    }
    contacts[incarnation] = absl::FromUnixMicros(micros);
  }
  return contacts;
}

}  // namespace

Contacts LoadContacts(base::FileSystem& file_system, const std::string& path) {
  if (!file_system.Exists(path)) return {};
  const absl::StatusOr<std::string> text = file_system.ReadWholeFile(path);
  absl::StatusOr<Contacts> contacts = text.ok() ? Decode(*text) : text.status();
  if (contacts.ok()) return *std::move(contacts);
  base::LogWarning("contacts_not_read")
      .With("path", path)
      .With("status", contacts.status())
      .With("consequence", "how long agents have been silent is counted from now on");
  return {};
}

absl::Status StoreContacts(base::FileSystem& file_system, const std::string& path,
                           const Contacts& contacts) {
  std::string body;
  for (const auto& [incarnation, time] : contacts) {
    absl::StrAppend(&body, incarnation.ToHex(), " ", absl::ToUnixMicros(time), "\n");
  }
  return file_system.WriteFileAtomically(path, base::SealText(kHead, body));
}

}  // namespace understudy::server
