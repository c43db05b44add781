#include "wire/nbd.h"

#include <cerrno>

namespace understudy::nbd {

uint32_t error_from_errno(int error) {
  switch (error) {
    case 0: return kOk;
    case EPERM:
    case EROFS: return kEperm;
    case ENOMEM: return kEnomem;
    case EINVAL: return kEinval;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return kEnospc;
    case EOVERFLOW: return kEoverflow;
    case ENOTSUP: return kEnotsup;
    case ESHUTDOWN: return kEshutdown;
    default: return kEio;
  }
}

}  // namespace understudy::nbd
