{
  'targets': [
    {
      'target_name': 'understudy',
      'sources': ['<!@(node scripts/native-sources.mjs)'],
      'include_dirs': ['native', '<!(node -p "require(\'node-addon-api\').include_dir")'],
      'defines': ['NAPI_VERSION=9', 'NAPI_CPP_EXCEPTIONS', '_GNU_SOURCE'],
      'cflags!': ['-O3'],
      'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20', '-O3'],
      'cflags': ['-O2', '-g', '-Wall', '-Wextra', '-fvisibility=hidden', '-pthread'],
      'cflags_cc': ['-std=c++20', '-fexceptions', '-Wno-missing-field-initializers', '-Wno-cast-function-type'],
      'ldflags': ['-pthread'],
      'libraries': ['-lngtcp2_crypto_gnutls', '-lngtcp2', '-lgnutls', '-lblkid']
    }
  ]
}
