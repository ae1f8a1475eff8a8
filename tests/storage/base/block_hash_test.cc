#include "storage/base/block_hash.h"

#include <string>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"

namespace understudy::base::block_hash_test {
namespace {

std::string HashesOf(const std::string& data) {
  std::string hashes;
  AppendBlockHashes(data, &hashes);
  return hashes;
}

// Both ends of a stream must agree over releases. The vector is what `xxhsum -H2` prints for 4096 zeroes.
TEST(BlockHashTest, IsXxh3WithTheCanonicalByteOrder) {
  EXPECT_EQ(absl::BytesToHexString(HashesOf(std::string(4096, '\0'))),
            "3ee8dc4f9e7ee49593d76fe148c689ba");
  EXPECT_EQ(ZeroBlockHash(), HashesOf(std::string(4096, '\0')));
}

TEST(BlockHashTest, HashesEachBlockForItself) {
  const std::string a(4096, 'a');
  const std::string b(512, 'b');
  EXPECT_EQ(HashesOf(a + b), HashesOf(a) + HashesOf(b));
  EXPECT_EQ(HashesOf(a + b).size(), 2 * kBlockHashBytes);
  EXPECT_NE(HashesOf(b), HashesOf(std::string(512, 'c')));
  EXPECT_EQ(HashesOf(""), "");
}

TEST(BlockHashTest, FindsTheOneByteThatIsNotZero) {
  for (const size_t size : {1, 15, 16, 17, 512, 4096}) {
    std::string data(size, '\0');
    EXPECT_TRUE(AllZero(data)) << size;
    for (const size_t at : {size_t{0}, size / 2, size - 1}) {
      data[at] = 1;
      EXPECT_FALSE(AllZero(data)) << size << " at " << at;
      data[at] = 0;
    }
  }
  EXPECT_TRUE(AllZero({}));
}

}  // namespace
}  // namespace understudy::base::block_hash_test
