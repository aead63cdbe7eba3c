#pragma once

#include <napi.h>

// Puts `packWeights` into the addon's exports.
void DefinePacking(Napi::Env env, Napi::Object exports);
