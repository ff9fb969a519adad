#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/cat.h"
#include "transport/data/tls_stream.h"

namespace baton {

// Certificates for tests, made by the openssl command: two authorities, "ca" and "other"; of the first
// "worker", "coordinator" and "expired" (a worker of yesterday), of the second "stranger" (another worker).
// They lie in a folder of their own until the end of the process that made them; processes that it starts
// find them by BATON_TEST_CERTIFICATES.
class TestCertificates {
 public:
  static const TestCertificates& get() {
    static const TestCertificates made;
    return made;
  }
  bool there() const { return there_; }
  transport::StreamSecurity as(const std::string& who, const std::string& ca = "ca") const {
    return {.ca = cat(folder_, "/", ca, ".pem"),
            .certificate = cat(folder_, "/", who, ".pem"),
            .key = cat(folder_, "/", who, ".key"),
            .peer_name = "worker"};
  }
  TestCertificates(const TestCertificates&) = delete;
  TestCertificates& operator=(const TestCertificates&) = delete;

 private:
  TestCertificates() {
    if (const char* parents = std::getenv("BATON_TEST_CERTIFICATES")) {
      folder_ = parents;
      there_ = true;
      return;
    }
    std::string name = (std::filesystem::temp_directory_path() / "baton_certificates_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) return;
    folder_ = name;
    own_ = true;
    there_ = authority("ca") && authority("other") && certificate("worker", "ca", "worker") &&
             certificate("coordinator", "ca", "coordinator") && certificate("expired", "ca", "worker", -1) &&
             certificate("stranger", "other", "worker");
    ::setenv("BATON_TEST_CERTIFICATES", folder_.c_str(), 1);
  }
  ~TestCertificates() {
    if (own_) std::filesystem::remove_all(folder_);
  }
  bool openssl(const std::string& arguments) const {
    return std::system(cat("cd ", folder_, " && openssl ", arguments, " >/dev/null 2>&1").c_str()) == 0;
  }
  bool authority(const std::string& name) const {
    return openssl(cat("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ", name,
                       ".key -out ", name, ".pem -subj /CN=", name));
  }
  bool certificate(const std::string& file, const std::string& ca, const std::string& name,
                   int days = 2) const {
    std::ofstream(cat(folder_, "/", file, ".ext")) << "subjectAltName=DNS:" << name << "\n";
    return openssl(cat("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ", file, ".key -out ",
                       file, ".csr -subj /CN=", name)) &&
           openssl(cat("x509 -req -days ", days, " -in ", file, ".csr -CA ", ca, ".pem -CAkey ", ca,
                       ".key -CAcreateserial -out ", file, ".pem -extfile ", file, ".ext"));
  }

  std::string folder_;
  bool own_ = false;
  bool there_ = false;
};

}  // namespace baton
