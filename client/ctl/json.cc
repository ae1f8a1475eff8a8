#include "client/ctl/json.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

namespace understudy::ctl {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted.push_back('\\');
      quoted.push_back(c);
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppend(&quoted, absl::StrFormat("\\u%04x", c));
    } else {
      quoted.push_back(c);
    }
  }
  quoted.push_back('"');
  return quoted;
}

// The shortest of two forms that reads back the same; JSON has no word for what is not finite.
std::string Number(double value) {
  if (!std::isfinite(value)) return "null";
  const std::string brief = absl::StrFormat("%.15g", value);
  double back = 0;
  return absl::SimpleAtod(brief, &back) && back == value ? brief : absl::StrFormat("%.17g", value);
}

std::string Text(const FieldDescriptor& field, const std::string& value) {
  const bool binary = field.type() == FieldDescriptor::TYPE_BYTES;
  return Quoted(binary ? absl::BytesToHexString(value) : value);
}

// "SyncState" -> "SYNC_STATE_"
std::string EnumPrefix(const std::string& type_name) {
  std::string prefix;
  for (const char c : type_name) {
    if (absl::ascii_isupper(c) && !prefix.empty()) prefix.push_back('_');
    prefix.push_back(absl::ascii_toupper(c));
  }
  return prefix + "_";
}

// One value of a field: the only one, or the element at `index` of a repeated one.
class Value {
 public:
  Value(const Message& message, const FieldDescriptor& field, int index)
      : message_(message), reflection_(*message.GetReflection()), field_(field), index_(index) {}

  std::string ToJson() const {
    switch (field_.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return absl::StrCat(Get(&Reflection::GetInt32, &Reflection::GetRepeatedInt32));
      case FieldDescriptor::CPPTYPE_INT64:
        return absl::StrCat(Get(&Reflection::GetInt64, &Reflection::GetRepeatedInt64));
      case FieldDescriptor::CPPTYPE_UINT32:
        return absl::StrCat(Get(&Reflection::GetUInt32, &Reflection::GetRepeatedUInt32));
      case FieldDescriptor::CPPTYPE_UINT64:
        return absl::StrCat(Get(&Reflection::GetUInt64, &Reflection::GetRepeatedUInt64));
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return Number(Get(&Reflection::GetDouble, &Reflection::GetRepeatedDouble));
      case FieldDescriptor::CPPTYPE_FLOAT:
        return Number(Get(&Reflection::GetFloat, &Reflection::GetRepeatedFloat));
      case FieldDescriptor::CPPTYPE_BOOL:
        return Get(&Reflection::GetBool, &Reflection::GetRepeatedBool) ? "true" : "false";
      case FieldDescriptor::CPPTYPE_ENUM:
        return Quoted(EnumName(*field_.enum_type(),
                               Get(&Reflection::GetEnumValue, &Reflection::GetRepeatedEnumValue)));
      case FieldDescriptor::CPPTYPE_STRING:
        return Text(field_, Get(&Reflection::GetString, &Reflection::GetRepeatedString));
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return SubMessage();
    }
    return "null";
  }

 private:
  template <typename T>
  T Get(T (Reflection::*single)(const Message&, const FieldDescriptor*) const,
        T (Reflection::*repeated)(const Message&, const FieldDescriptor*, int) const) const {
    return field_.is_repeated() ? (reflection_.*repeated)(message_, &field_, index_)
                                : (reflection_.*single)(message_, &field_);
  }

  std::string SubMessage() const {
    if (field_.is_repeated()) {
      return ctl::ToJson(reflection_.GetRepeatedMessage(message_, &field_, index_));
    }
    if (!reflection_.HasField(message_, &field_)) return "null";
    return ctl::ToJson(reflection_.GetMessage(message_, &field_));
  }

  const Message& message_;
  const Reflection& reflection_;
  const FieldDescriptor& field_;
  const int index_;
};

std::string FieldToJson(const Message& message, const FieldDescriptor& field) {
  if (!field.is_repeated()) return Value(message, field, 0).ToJson();
  std::string list = "[";
  const int count = message.GetReflection()->FieldSize(message, &field);
  for (int i = 0; i < count; ++i) {
    absl::StrAppend(&list, i == 0 ? "" : ", ", Value(message, field, i).ToJson());
  }
  return list + "]";
}

}  // namespace

std::string EnumName(const EnumDescriptor& type, int number) {
  const EnumValueDescriptor* const value = type.FindValueByNumber(number);
  if (value == nullptr) return absl::StrCat(number);
  const std::string prefix = EnumPrefix(type.name());
  return absl::StartsWith(value->name(), prefix) ? value->name().substr(prefix.size())
                                                 : value->name();
}

std::string ToJson(const Message& message) {
  std::string json = "{";
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    absl::StrAppend(&json, i == 0 ? "" : ", ", Quoted(field.name()), ": ",
                    FieldToJson(message, field));
  }
  return json + "}";
}

}  // namespace understudy::ctl
