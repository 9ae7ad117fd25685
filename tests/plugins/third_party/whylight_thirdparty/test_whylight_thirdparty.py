from whylight_thirdparty import Energy

from whylight.testing import MethodTests


class TestEnergy(MethodTests):
    method = Energy


class TestEnergyOfAnEarlyLayer(MethodTests):
    method = Energy
    options = {"layer": "features.0", "order": 3}
