#pragma once

#include <napi.h>

// Adds `roundLayer` to the addon.
void DefineRounding(Napi::Env env, Napi::Object exports);
