// The schemes of cam_pool by number, as the schema has them.
#pragma once

namespace whylight::cam_pool {

enum class Scheme : int { kGradCam, kGradCamPlusPlus, kXGradCam, kLayerCam, kHiResCam };

}  // namespace whylight::cam_pool
