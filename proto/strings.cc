#include "proto/strings.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include <google/protobuf/descriptor.h>

#include "storage/base/status_macros.h"
#include "storage/base/text.h"

namespace understudy::proto {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

absl::Status CheckStringsOf(const Message& message, const std::string& path) {
  const google::protobuf::Reflection& fields = *message.GetReflection();
  std::vector<const FieldDescriptor*> set;
  fields.ListFields(message, &set);
  for (const FieldDescriptor* field : set) {
    const std::string name = absl::StrCat(path, field->name());
    const bool text = field->type() == FieldDescriptor::TYPE_STRING;
    const bool nested = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    const int count = field->is_repeated() ? fields.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (text) {
        RETURN_IF_ERROR(base::CheckUtf8(name, field->is_repeated()
                                                  ? fields.GetRepeatedString(message, field, i)
                                                  : fields.GetString(message, field)));
      } else if (nested) {
        RETURN_IF_ERROR(CheckStringsOf(field->is_repeated()
                                           ? fields.GetRepeatedMessage(message, field, i)
                                           : fields.GetMessage(message, field),
                                       absl::StrCat(name, ".")));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckStrings(const Message& message) { return CheckStringsOf(message, ""); }

}  // namespace understudy::proto
