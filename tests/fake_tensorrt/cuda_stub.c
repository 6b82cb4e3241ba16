/* libcudart and libcuda without a GPU: memory of the host, handed out and copied only within what was allocated. */
#include <stdlib.h>
#include <string.h>

#define SLOTS 256
static struct { char *at; size_t size; } held[SLOTS];

static int inside(const void *pointer, size_t size) {
    for (int n = 0; n < SLOTS; n++)
        if (held[n].at && (const char *)pointer >= held[n].at &&
            (const char *)pointer + size <= held[n].at + held[n].size) return 1;
    return 0;
}

int cudaMalloc(void **pointer, size_t size) {
    if (getenv("FAKE_CUDA_OOM")) return 2;
    for (int n = 0; n < SLOTS; n++)
        if (!held[n].at) {
            held[n].at = *pointer = malloc(size);
            held[n].size = size;
            return 0;
        }
    return 2;
}

int cudaFree(void *pointer) {
    for (int n = 0; n < SLOTS; n++)
        if (held[n].at == pointer) {
            free(pointer);
            held[n].at = 0;
            return 0;
        }
    return 1;
}

/* kind: 1 to the device, 2 to the host */
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    if (stream != (void *)0x57 || (kind != 1 && kind != 2)) return 1;
    if (!inside(kind == 1 ? to : from, size)) return 1;
    memcpy(to, from, size);
    return 0;
}

int cudaStreamCreate(void **stream) { *stream = (void *)0x57; return 0; }
int cudaStreamSynchronize(void *stream) { return stream == (void *)0x57 ? 0 : 400; }
const char *cudaGetErrorString(int code) { return code == 2 ? "out of memory" : "invalid argument"; }

int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    const char *called = getenv("FAKE_GPU");
    strncpy(name, called ? called : "Orin", size);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 0;
    return 0;
}
