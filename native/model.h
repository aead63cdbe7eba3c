#pragma once

#include <napi.h>

// Puts `Model` and `catalogue` into the addon's exports.
void DefineModel(Napi::Env env, Napi::Object exports);
