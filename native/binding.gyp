{
  "targets": [
    {
      "target_name": "quantd",
      "sources": [
        "addon.cc",
        "model.cc",
        "packing.cc",
        "engine/band.c",
        "engine/check.c",
        "engine/check_stage.c",
        "engine/engine.c",
        "engine/patch.c",
        "engine/record.c",
        # Every machine compiles all of these; those of another one are empty.
        "kernels/arch/avx2/depthwise.c",
        "kernels/arch/avx2/direct16.c",
        "kernels/arch/avx2/direct8.c",
        "kernels/arch/avx2/lookup8.c",
        "kernels/arch/avx2/narrow8.c",
        "kernels/arch/avx2/operators.c",
        "kernels/arch/avx2/vector8.c",
        "kernels/arch/avx2/winograd.c",
        "kernels/arch/dsp/depthwise.c",
        "kernels/arch/dsp/direct16.c",
        "kernels/arch/dsp/outer2.c",
        "kernels/arch/dsp/outer4.c",
        "kernels/arch/dsp/polynomial2.c",
        "kernels/arch/dsp/polynomial4.c",
        "kernels/arch/dsp/vector16.c",
        "kernels/arch/neon/depthwise.c",
        "kernels/arch/neon/direct8.c",
        "kernels/arch/neon/direct8_dot.c",
        "kernels/arch/neon/winograd.c",
        "kernels/arch/neon/winograd_dot.c",
        "kernels/convolution.c",
        "kernels/operators.c",
        "rounding.cc",
        "rounding/matrix.cc",
        "rounding/rounding.cc"
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=9", "NODE_ADDON_API_DISABLE_DEPRECATED", "NAPI_CPP_EXCEPTIONS"],
      "cflags": ["-O2", "-Wall", "-Wextra"],
      # Floats must not depend on whether a machine can fuse a multiplication with an addition.
      "cflags_c": ["-std=gnu11", "-ffp-contract=off", "-fno-trapping-math"],
      "cflags_cc": ["-std=c++17", "-fexceptions"],
      "cflags!": ["-fno-exceptions", "-O3"],
      "cflags_cc!": ["-fno-exceptions"],
      "libraries": ["-pthread"]
    }
  ]
}
