#include "tests/coordinator/gateway/loopback_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace baton::coordinator {

LoopbackClient::LoopbackClient(uint16_t port, int receive_buffer) {
  fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_buffer > 0) ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  const timeval wait{.tv_sec = 10, .tv_usec = 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) close();
}

void LoopbackClient::send(const std::string& bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    const ssize_t n = ::send(fd_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (n <= 0) return;  // the server has closed: the reply tells
    at += static_cast<size_t>(n);
  }
}

void LoopbackClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void LoopbackClient::reset() {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  close();
}

void LoopbackClient::half_close() { ::shutdown(fd_, SHUT_WR); }

bool LoopbackClient::fill() {
  char bytes[16384];
  const ssize_t n = fd_ < 0 ? 0 : ::recv(fd_, bytes, sizeof bytes, 0);
  if (n <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(n));
  return true;
}

bool LoopbackClient::at_end() {
  char byte;
  return buffer_.empty() && (fd_ < 0 || ::recv(fd_, &byte, 1, 0) == 0);
}

std::string LoopbackClient::read_until(const std::string& mark) {
  size_t at;
  while ((at = buffer_.find(mark)) == std::string::npos)
    if (!fill()) return std::exchange(buffer_, {});
  std::string out = buffer_.substr(0, at + mark.size());
  buffer_.erase(0, at + mark.size());
  return out;
}

std::string LoopbackClient::read_some() {
  fill();
  return std::exchange(buffer_, {});
}

LoopbackClient::Reply LoopbackClient::read_reply(bool head_only) {
  Reply reply;
  std::string head = read_until("\r\n\r\n");
  if (!head.starts_with("HTTP/1.1 ") || !head.ends_with("\r\n\r\n")) return reply;
  reply.status = std::atoi(head.c_str() + 9);
  if (reply.status == 100) return read_reply(head_only);
  for (size_t at = head.find("\r\n") + 2; at + 2 < head.size();) {
    const size_t end = head.find("\r\n", at);
    const size_t colon = head.find(": ", at);
    reply.fields[head.substr(at, colon - at)] = head.substr(colon + 2, end - colon - 2);
    at = end + 2;
  }
  if (head_only) {
    reply.complete = true;
  } else if (reply.fields.contains("transfer-encoding")) {
    while (true) {
      const std::string line = read_until("\r\n");
      if (!line.ends_with("\r\n")) return reply;
      const size_t size = std::strtoul(line.c_str(), nullptr, 16);
      while (buffer_.size() < size + 2)
        if (!fill()) return reply;
      reply.body += buffer_.substr(0, size);
      buffer_.erase(0, size + 2);
      if (size == 0) break;
    }
    reply.complete = true;
  } else if (reply.fields.contains("content-length")) {
    const size_t size = std::strtoul(reply.fields["content-length"].c_str(), nullptr, 10);
    while (buffer_.size() < size)
      if (!fill()) break;
    reply.complete = buffer_.size() >= size;
    reply.body = buffer_.substr(0, size);
    buffer_.erase(0, reply.body.size());
  } else {
    while (fill()) {
    }
    reply.body = std::exchange(buffer_, {});
    reply.complete = true;
  }
  return reply;
}

LoopbackClient::Reply LoopbackClient::get(const std::string& path) {
  send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n");
  return read_reply();
}

std::string LoopbackClient::post_text(const std::string& path, const std::string& body,
                                      const std::string& fields) {
  return "POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         fields + "\r\n" + body;
}

LoopbackClient::Reply LoopbackClient::post(const std::string& path, const std::string& body,
                                           const std::string& fields) {
  send(post_text(path, body, fields));
  return read_reply();
}

}  // namespace baton::coordinator
