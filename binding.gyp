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
      'cflags_cc': ['-std=c++20', '-fexceptions', '-Wno-missing-field-initializers', '-Wno-cast-function-type'],
      'ldflags': ['-pthread'],
      'libraries': ['-lngtcp2_crypto_gnutls', '-lngtcp2', '-lgnutls', '-lblkid', '-lext2fs', '-lcom_err', '-lzstd', '-llz4']
    }
  ]
}
