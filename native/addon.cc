// What Node cannot do itself. Arguments are checked in index.ts before they come here.
#include <napi.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "model.h"
#include "packing.h"
#include "rounding.h"

namespace {

// sendDatagram(path, text): one datagram to a Unix socket; a path that begins with '@' is in Linux's abstract namespace.
// Answers 0, or the errno of what failed.
Napi::Value SendDatagram(const Napi::CallbackInfo &info) {
  const std::string path = info[0].As<Napi::String>();
  const std::string text = info[1].As<Napi::String>();
  sockaddr_un address;
  std::memset(&address, 0, sizeof(address));
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return Napi::Number::New(info.Env(), ENAMETOOLONG);
  std::memcpy(address.sun_path, path.data(), path.size());
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const socklen_t size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  const int socket_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket_fd < 0) return Napi::Number::New(info.Env(), errno);
  const ssize_t sent = sendto(socket_fd, text.data(), text.size(), MSG_NOSIGNAL, reinterpret_cast<sockaddr *>(&address), size);
  const int error = sent < 0 ? errno : 0;
  close(socket_fd);
  return Napi::Number::New(info.Env(), error);
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("sendDatagram", Napi::Function::New(env, SendDatagram));
  DefineModel(env, exports);
  DefinePacking(env, exports);
  DefineRounding(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(quantd, Init)
