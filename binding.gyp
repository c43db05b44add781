{
  'targets': [
    {
      'target_name': 'understudy',
      'sources': ['<!@(node scripts/native-sources.mjs)'],
      'include_dirs': ['native', '<!(node -p "require(\'node-addon-api\').include_dir")'],
      # What cannot be thrown into a worker that is being terminated is dropped instead of ending the process.
      'defines': ['NAPI_VERSION=9', 'NAPI_CPP_EXCEPTIONS', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS', '_GNU_SOURCE'],
      'cflags!': ['-O3'],
      'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20', '-O3'],
      'cflags': ['-O2', '-g1', '-Wall', '-Wextra', '-fvisibility=hidden', '-pthread'],
      # What most files include of the standard library, compiled once, with the flags of the files themselves.
      'actions': [
        {
          'action_name': 'standard',
          'inputs': ['native/standard.h'],
          'outputs': ['<(SHARED_INTERMEDIATE_DIR)/standard.h.gch'],
          'action': [
            'sh', '-c',
            'cp native/standard.h <(SHARED_INTERMEDIATE_DIR)/ && '
            '$(CXX) $(DEFS_$(BUILDTYPE)) $(filter-out -include %/standard.h,$(CFLAGS_$(BUILDTYPE)) $(CFLAGS_CC_$(BUILDTYPE))) '
            '-x c++-header -o <@(_outputs) native/standard.h',
          ],
        },
      ],
      'cflags_cc': ['-include', '<(SHARED_INTERMEDIATE_DIR)/standard.h', '-std=c++20', '-fexceptions', '-Wno-missing-field-initializers', '-Wno-cast-function-type'],
      'ldflags': ['-pthread'],
      'libraries': ['-lngtcp2_crypto_gnutls', '-lngtcp2', '-lgnutls', '-lblkid', '-lext2fs', '-lcom_err', '-lzstd', '-llz4']
    }
  ]
}
