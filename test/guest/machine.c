/*
 * The first and only process of a guest in QEMU: a machine whose disks are protected. The kernel's command line says what
 * it does (job=...), the first serial port is where it says what it has done.
 *
 *   count   says what the disks hold, and counts on from there: N goes to the first disk and is synced, then to the
 *           second; then it says so. Powers off when its power button is pressed
 *   listen  accepts connections to TCP port 22, and says nothing
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/input.h>
#include <net/if.h>
#include <net/route.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where a disk holds the counter, as text. */
enum { kAt = 65536, kBlock = 4096 };

static void load(const char *module) {
  const int file = open(module, O_RDONLY | O_CLOEXEC);
  if (file < 0 || syscall(SYS_finit_module, file, "", 0) != 0) perror(module);
  if (file >= 0) close(file);
}

static int open_disk(const char *path, int wait) {
  for (int i = 0; i < wait && access(path, F_OK) != 0; i++) usleep(10000);
  return open(path, O_RDWR | O_CLOEXEC);
}

static long counter_of(int disk) {
  char text[kBlock] = "";
  if (disk < 0 || pread(disk, text, sizeof text - 1, kAt) <= 0) return -1;
  return atol(text);
}

static void put(int disk, long counter) {
  static char block[kBlock];
  if (disk < 0) return;
  snprintf(block, sizeof block, "%ld\n", counter);
  if (pwrite(disk, block, sizeof block, kAt) != sizeof block || fsync(disk) != 0) {
    printf("FAILED %ld\n", counter);
    reboot(RB_POWER_OFF);
  }
}

static void listen_at(int port) {
  const int one = socket(AF_INET, SOCK_STREAM, 0);
  struct ifreq request = {.ifr_name = "eth0"};
  struct sockaddr_in *address = (struct sockaddr_in *)&request.ifr_addr;
  address->sin_family = AF_INET;
  inet_pton(AF_INET, "10.0.2.15", &address->sin_addr);
  for (int i = 0; i < 500 && ioctl(one, SIOCSIFADDR, &request) != 0; i++) usleep(10000);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(one, SIOCSIFFLAGS, &request) != 0) perror("eth0");
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (bind(one, (struct sockaddr *)&any, sizeof any) != 0 || listen(one, 8) != 0) perror("listen");
  for (;;)
    if (accept(one, NULL, NULL) < 0) perror("accept");
}

static void heed_power_button(void) {
  struct pollfd inputs[8];
  int count = 0;
  for (int i = 0; i < 8; i++) {
    char path[32];
    snprintf(path, sizeof path, "/dev/input/event%d", i);
    const int input = open(path, O_RDONLY | O_CLOEXEC);
    if (input >= 0) inputs[count++] = (struct pollfd){.fd = input, .events = POLLIN};
  }
  while (poll(inputs, count, -1) > 0)
    for (int i = 0; i < count; i++) {
      struct input_event event;
      if (!inputs[i].revents || read(inputs[i].fd, &event, sizeof event) != sizeof event) continue;
      if (event.type != EV_KEY || event.code != KEY_POWER || !event.value) continue;
      printf("POWER BUTTON\n");
      reboot(RB_POWER_OFF);
    }
}

static int job_is(const char *name) {
  char line[4096] = "", word[64];
  const int file = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  if (file < 0 || read(file, line, sizeof line - 1) <= 0) return 0;
  close(file);
  snprintf(word, sizeof word, "job=%s", name);
  return strstr(line, word) != NULL;
}

int main(void) {
  mkdir("/dev", 0755);
  mkdir("/proc", 0755);
  mount("d", "/dev", "devtmpfs", 0, NULL);
  mount("p", "/proc", "proc", 0, NULL);
  const int console = open("/dev/console", O_RDWR);
  for (int fd = 0; fd < 3; fd++) dup2(console, fd);
  setvbuf(stdout, NULL, _IOLBF, 0);
  static const char *const modules[] = {
      "/virtio_ring.ko",  "/virtio.ko",   "/virtio_pci_legacy_dev.ko", "/virtio_pci_modern_dev.ko", "/virtio_pci.ko",
      "/virtio_blk.ko",   "/failover.ko", "/net_failover.ko",          "/virtio_net.ko",
      "/button.ko",       "/evdev.ko"};
  for (unsigned i = 0; i < sizeof modules / sizeof *modules; i++) load(modules[i]);
  if (job_is("listen")) listen_at(22);
  if (fork() == 0) {
    heed_power_button();
    return 1;
  }
  const int a = open_disk("/dev/vda", 500), b = open_disk("/dev/vdb", 20);
  printf("HOLDS %ld %ld\n", counter_of(a), counter_of(b));
  for (long counter = counter_of(a) + 1;; counter++) {
    put(a, counter);
    put(b, counter);
    printf("COUNTER %ld\n", counter);
    usleep(10000);
  }
}
