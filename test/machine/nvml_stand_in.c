/* Stands in for NVIDIA's libnvidia-ml.so.1, which comes with a driver: two GPUs that say what the
   environment says. Signatures and codes are those of NVIDIA's nvml.h. */
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned long long total, free, used; } memory_t;
enum { SUCCESS = 0, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

static long value(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : -1;
}

static int is_lost(void *device) { return (size_t)device == 1 && value("NVML_LOST") > 0; }

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    return value("NVML_NO_DRIVER") > 0 ? DRIVER_NOT_LOADED : SUCCESS;
}
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "?"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    *device = (void *)(size_t)(index + 1);
    return SUCCESS;
}
int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
    strncpy(name, (size_t)device == 1 ? "First" : "Second", length);
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization_t *found) {
    if (is_lost(device)) return GPU_IS_LOST;
    if ((size_t)device == 2) return NOT_SUPPORTED;
    found->gpu = value("NVML_LOAD");
    found->memory = 1;
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *found) {
    if (is_lost(device)) return GPU_IS_LOST;
    if ((size_t)device == 2) return NOT_SUPPORTED;
    found->total = 8000000000ull;
    found->used = value("NVML_USED");
    found->free = found->total - found->used;
    return SUCCESS;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *found) {
    if (is_lost(device)) return GPU_IS_LOST;
    if (sensor != 0) return NOT_SUPPORTED;
    *found = 60 + (size_t)device;
    return SUCCESS;
}
int nvmlDeviceGetClockInfo(void *device, int kind, unsigned int *found) {
    if (is_lost(device)) return GPU_IS_LOST;
    if (kind != 1 || (size_t)device == 2) return NOT_SUPPORTED;
    *found = 1980;
    return SUCCESS;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *found) {
    if (is_lost(device)) return GPU_IS_LOST;
    if ((size_t)device == 2) return NOT_SUPPORTED;
    *found = value("NVML_REASONS");
    return SUCCESS;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *found) {
    return nvmlDeviceGetCurrentClocksEventReasons(device, found);
}
