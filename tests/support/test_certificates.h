#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "base/cat.h"
#include "tests/support/temp_dir.h"
#include "transport/tls/tls_stream.h"

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
  // The lines below `control:` of a manifest that name them.
  std::string control_tls() const {
    std::string lines = cat("    tls:\n      ca: ", as("worker").ca, "\n");
    for (const char* side : {"coordinator", "worker"})
      lines += cat("      ", side, ": {certificate: ", as(side).certificate, ", key: ", as(side).key,
                   ", name: ", side, "}\n");
    return lines;
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
    own_ = std::make_unique<support::TempDir>("certificates");
    folder_ = own_->path();
    there_ = authority("ca") && authority("other") && certificate("worker", "ca", "worker") &&
             certificate("coordinator", "ca", "coordinator") && certificate("expired", "ca", "worker", -1) &&
             certificate("stranger", "other", "worker");
    ::setenv("BATON_TEST_CERTIFICATES", folder_.c_str(), 1);
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
  std::unique_ptr<support::TempDir> own_;  // nullptr: the parent's
  bool there_ = false;
};

}  // namespace baton
