// client/ctl/json.h
//
// A protobuf message as one line of JSON, in the form scripts rely on: the proto's field names, every field also at its
// default, enums without their prefix ("stage": "RUNNING"), bytes as lower-case hexadecimal, 64-bit integers as numbers.
#ifndef UNDERSTUDY_CLIENT_CTL_JSON_H_
#define UNDERSTUDY_CLIENT_CTL_JSON_H_

#include <string>

namespace google::protobuf {
class EnumDescriptor;
class Message;
}  // namespace google::protobuf

namespace understudy::ctl {

std::string ToJson(const google::protobuf::Message& message);

// STAGE_RUNNING of enum Stage is "RUNNING"; a number this program does not know is printed as it is.
std::string EnumName(const google::protobuf::EnumDescriptor& type, int number);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_JSON_H_
